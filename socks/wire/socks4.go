package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
)

// Version4 is the first byte of a SOCKS4 request.
const Version4 = 4

// SOCKS4 reply codes.
const (
	Granted4  = 90
	Rejected4 = 91
	NoIdent4  = 92 // the server cannot reach the client's identd
	BadUser4  = 93 // the user is refused
)

// maxUser4 is our limit of a SOCKS4 user name, in bytes. The protocol has none.
const maxUser4 = 255

// Request4 is a SOCKS4 or SOCKS4a request.
type Request4 struct {
	Command Command
	Addr    Addr   // with a name, the request is SOCKS4a
	User    string // claimed, not proven
}

// Append appends r in wire format. An IPv6 address is written as a name. The error
// wraps ErrName or ErrUser.
func (r Request4) Append(b []byte) ([]byte, error) {
	if len(r.User) > maxUser4 || bytes.IndexByte([]byte(r.User), 0) >= 0 {
		return b, fmt.Errorf("%w: SOCKS4 can't carry this user name", ErrUser)
	}
	b = append(b, Version4, byte(r.Command))
	b = binary.BigEndian.AppendUint16(b, r.Addr.Port)
	name := r.Addr.Name
	switch ip := r.Addr.IP.Unmap(); {
	case ip.Is4():
		v := ip.As4()
		return append(append(append(b, v[:]...), r.User...), 0), nil
	case ip.Is6():
		name = ip.String()
	default:
		if err := r.Addr.Check(); err != nil {
			return b, err
		}
	}
	b = append(append(append(b, 0, 0, 0, 1), r.User...), 0)
	return append(append(b, name...), 0), nil
}

// ParseRequest4 parses a SOCKS4 or SOCKS4a request. The error is
// io.ErrUnexpectedEOF or wraps ErrVersion, ErrName or ErrUser (a user name of
// more than 255 bytes).
func ParseRequest4(b []byte) (Request4, int, error) {
	if len(b) >= 1 && b[0] != Version4 {
		return Request4{}, 0, fmt.Errorf("%w %d in request", ErrVersion, b[0])
	}
	if len(b) < 8 {
		return Request4{}, 0, io.ErrUnexpectedEOF
	}
	r := Request4{Command: Command(b[1])}
	port := binary.BigEndian.Uint16(b[2:])
	ip := netip.AddrFrom4([4]byte(b[4:8]))
	user, err := cString(b[8:], maxUser4)
	if err != nil {
		if err != io.ErrUnexpectedEOF {
			err = fmt.Errorf("%w: user name of more than %d bytes", ErrUser, maxUser4)
		}
		return r, 0, err
	}
	r.User = string(user)
	n := 8 + len(user) + 1
	r.Addr = Addr{IP: ip, Port: port}
	if v := ip.As4(); v[0] == 0 && v[1] == 0 && v[2] == 0 && v[3] != 0 { // SOCKS4a
		name, err := cString(b[n:], 255)
		if err != nil {
			if err != io.ErrUnexpectedEOF {
				err = fmt.Errorf("%w: longer than 255 bytes", ErrName)
			}
			return r, 0, err
		}
		n += len(name) + 1
		r.Addr = hostAddr(string(name), port)
	}
	return r, n, nil
}

// cString returns the bytes before the first NUL.
func cString(b []byte, limit int) ([]byte, error) {
	i := bytes.IndexByte(b, 0)
	switch {
	case i > limit, i < 0 && len(b) > limit:
		return nil, ErrName
	case i < 0:
		return nil, io.ErrUnexpectedEOF
	}
	return b[:i], nil
}

// Response4 is a SOCKS4 server's answer.
type Response4 struct {
	Code byte // Granted4, or why not
	Addr Addr // zero where the address is not IPv4
}

// Append appends r in wire format.
func (r Response4) Append(b []byte) []byte {
	b = append(b, 0, r.Code)
	b = binary.BigEndian.AppendUint16(b, r.Addr.Port)
	var v [4]byte
	if ip := r.Addr.IP.Unmap(); ip.Is4() {
		v = ip.As4()
	}
	return append(b, v[:]...)
}

// ParseResponse4 parses a SOCKS4 server's answer. The error is
// io.ErrUnexpectedEOF or wraps ErrVersion.
func ParseResponse4(b []byte) (Response4, int, error) {
	// The version of a reply is 0; some servers send 4.
	if len(b) >= 1 && b[0] != 0 && b[0] != Version4 {
		return Response4{}, 0, fmt.Errorf("%w %d in reply", ErrVersion, b[0])
	}
	if len(b) < 8 {
		return Response4{}, 0, io.ErrUnexpectedEOF
	}
	ap := netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:]))
	return Response4{Code: b[1], Addr: AddrFrom(ap)}, 8, nil
}
