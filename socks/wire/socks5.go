package wire

import (
	"fmt"
	"io"
	"net/netip"
	"strconv"
)

// Version5 is the first byte of each SOCKS5 message, except those of the
// authentication.
const Version5 = 5

// Methods of authentication (RFC 1928 §3).
const (
	MethodNone         = 0x00
	MethodUserPass     = 0x02
	MethodUnacceptable = 0xff
)

// versionUserPass is the version of the RFC 1929 negotiation.
const versionUserPass = 1

// Command is what a request asks for.
type Command byte

// The commands of RFC 1928 §4. SOCKS4 has the first two.
const (
	Connect   Command = 1
	Bind      Command = 2
	Associate Command = 3
)

// String returns the command's name in lower case.
func (c Command) String() string {
	switch c {
	case Connect:
		return "connect"
	case Bind:
		return "bind"
	case Associate:
		return "associate"
	}
	return "command " + strconv.Itoa(int(c))
}

// Greeting is the client's first message: the methods that it offers.
type Greeting struct {
	Methods []byte // at most 255; aliases the parsed bytes
}

// Append appends g in wire format.
func (g Greeting) Append(b []byte) []byte {
	return append(append(b, Version5, byte(len(g.Methods))), g.Methods...)
}

// Offers reports whether g contains the method.
func (g Greeting) Offers(method byte) bool {
	for _, m := range g.Methods {
		if m == method {
			return true
		}
	}
	return false
}

// ParseGreeting parses a greeting. The error is io.ErrUnexpectedEOF or wraps
// ErrVersion.
func ParseGreeting(b []byte) (Greeting, int, error) {
	if len(b) < 1 {
		return Greeting{}, 0, io.ErrUnexpectedEOF
	}
	if b[0] != Version5 {
		return Greeting{}, 0, fmt.Errorf("%w %d in greeting", ErrVersion, b[0])
	}
	if len(b) < 2 || len(b) < 2+int(b[1]) {
		return Greeting{}, 0, io.ErrUnexpectedEOF
	}
	n := 2 + int(b[1])
	return Greeting{Methods: b[2:n:n]}, n, nil
}

// AppendMethod appends the server's choice of a method.
func AppendMethod(b []byte, method byte) []byte { return append(b, Version5, method) }

// ParseMethod parses the server's choice of a method. The error is
// io.ErrUnexpectedEOF or wraps ErrVersion.
func ParseMethod(b []byte) (method byte, n int, err error) {
	if len(b) >= 1 && b[0] != Version5 {
		return 0, 0, fmt.Errorf("%w %d in method selection", ErrVersion, b[0])
	}
	if len(b) < 2 {
		return 0, 0, io.ErrUnexpectedEOF
	}
	return b[1], 2, nil
}

// UserPass is the client's message of RFC 1929. Its String method hides it.
type UserPass struct {
	User, Pass string // at most 255 bytes each; Pass may be empty
}

// String hides what u holds.
func (u UserPass) String() string { return "[credentials]" }

// GoString hides what u holds.
func (u UserPass) GoString() string { return u.String() }

// Append appends u in wire format. The error wraps ErrUser: each part has at most
// 255 bytes.
func (u UserPass) Append(b []byte) ([]byte, error) {
	if len(u.User) > 255 || len(u.Pass) > 255 {
		return b, fmt.Errorf("%w: longer than 255 bytes", ErrUser)
	}
	b = append(append(b, versionUserPass, byte(len(u.User))), u.User...)
	return append(append(b, byte(len(u.Pass))), u.Pass...), nil
}

// ParseUserPass parses the client's message of RFC 1929. The error is
// io.ErrUnexpectedEOF or wraps ErrVersion.
func ParseUserPass(b []byte) (UserPass, int, error) {
	if len(b) >= 1 && b[0] != versionUserPass {
		return UserPass{}, 0, fmt.Errorf("%w %d in authentication", ErrVersion, b[0])
	}
	if len(b) < 2 || len(b) < 2+int(b[1])+1 {
		return UserPass{}, 0, io.ErrUnexpectedEOF
	}
	p := 2 + int(b[1])
	n := p + 1 + int(b[p])
	if len(b) < n {
		return UserPass{}, 0, io.ErrUnexpectedEOF
	}
	return UserPass{User: string(b[2:p]), Pass: string(b[p+1 : n])}, n, nil
}

// AppendAuthStatus appends the server's answer of RFC 1929.
func AppendAuthStatus(b []byte, ok bool) []byte {
	if ok {
		return append(b, versionUserPass, 0)
	}
	return append(b, versionUserPass, 1)
}

// ParseAuthStatus parses the server's answer of RFC 1929. The error is
// io.ErrUnexpectedEOF or wraps ErrVersion.
func ParseAuthStatus(b []byte) (ok bool, n int, err error) {
	// Some servers answer with the version of SOCKS instead of RFC 1929's.
	if len(b) >= 1 && b[0] != versionUserPass && b[0] != Version5 {
		return false, 0, fmt.Errorf("%w %d in authentication status", ErrVersion, b[0])
	}
	if len(b) < 2 {
		return false, 0, io.ErrUnexpectedEOF
	}
	return b[1] == 0, 2, nil
}

// Request is a SOCKS5 request.
type Request struct {
	Command Command
	Addr    Addr
}

// Append appends r in wire format. The error wraps ErrName.
func (r Request) Append(b []byte) ([]byte, error) {
	return r.Addr.Append(append(b, Version5, byte(r.Command), 0))
}

// ParseRequest parses a SOCKS5 request. The error is io.ErrUnexpectedEOF or
// wraps ErrVersion or ErrAddrType; with the latter the command is set.
func ParseRequest(b []byte) (Request, int, error) {
	code, addr, n, err := parse5(b, "request")
	return Request{Command(code), addr}, n, err
}

// parse5 parses what a request and the answer to it have in common: version, a
// code, a reserved byte and an address. The code is set with ErrAddrType too.
func parse5(b []byte, what string) (code byte, addr Addr, n int, err error) {
	if len(b) >= 1 && b[0] != Version5 {
		return 0, Addr{}, 0, fmt.Errorf("%w %d in %s", ErrVersion, b[0], what)
	}
	if len(b) < 4 {
		return 0, Addr{}, 0, io.ErrUnexpectedEOF
	}
	addr, n, err = ParseAddr(b[3:])
	if err != nil {
		return b[1], Addr{}, 0, err
	}
	return b[1], addr, 3 + n, nil
}

// Response is a SOCKS5 server's answer to a request.
type Response struct {
	Reply Reply
	Addr  Addr // BND; the zero Addr is written as 0.0.0.0:0
}

// Append appends r in wire format. It writes an address, never a name: some
// clients do not accept a name here.
func (r Response) Append(b []byte) []byte {
	a := r.Addr
	if !a.IP.IsValid() {
		a = Addr{IP: netip.IPv4Unspecified(), Port: a.Port}
	}
	b, _ = a.Append(append(b, Version5, byte(r.Reply), 0)) // an address always fits
	return b
}

// ParseResponse parses a server's answer. The error is io.ErrUnexpectedEOF or
// wraps ErrVersion or ErrAddrType; with the latter the reply is set.
func ParseResponse(b []byte) (Response, int, error) {
	code, addr, n, err := parse5(b, "reply")
	return Response{Reply(code), addr}, n, err
}
