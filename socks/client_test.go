package socks_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"netstackd/socks"
	"netstackd/socks/auth"
	"netstackd/socks/wire"
)

func via(t testing.TB, next socks.ContextDialer, urls ...string) socks.Upstream {
	t.Helper()
	d, err := socks.Via(next, urls...)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func credentials(t testing.TB, entries ...string) *auth.Credentials {
	t.Helper()
	c, err := auth.New(entries, "")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestVia(t *testing.T) {
	for _, tc := range []struct{ url, want string }{
		{"socks5://h:1", "socks5://h:1"},
		{"socks5://h", "socks5://h:1080"},
		{"socks5h://u:p%40@[::1]:9/", "socks5://[::1]:9"},
		{"http://u:p@h", "http://h:80"},
		{"socks4a://u@h", "socks4a://h:1080"},
		{"SOCKS5://h:1", "socks5://h:1"},
		{"direct", "direct"},
		{"socks5://u:secret@h:0", ""},
		{"socks5://u:secret@h:70000", ""},
		{"socks5://u:secret@", ""},
		{"socks5://u:secret@h:1/path", ""},
		{"socks4://u:secret@h:1", ""},
		{"socks4a://u:secret@h:1", ""},
		{"socks5://h:1#x", ""},
		{"socks5://u:secret@h:1#x", ""},
		{"socks5://u:sec/ret@h:1", ""},
		{"socks5://u:sec#ret@h:1", ""},
		{"socks5://u:sec?ret@h:1", ""},
		{"socks5://secret:12/34@h:1", ""},
		{"socks5://secret:12?34@h:1", ""},
		{"socks5://secret:12#34@h:1", ""},
		{"socks5://secret:12/34@h:1?x", ""},
		{"secret:x@h:1", ""},
		{"secret://x@h:1", ""},
		{"//u:secret@h:1", ""},
		{"socks5://u:sec%ret@h:1", ""},
		{"u:secret@h:1", ""},
		{"http://u%3Ax:secret@h:1", ""},
		{"socks5://" + strings.Repeat("secret", 50) + "@h:1", ""},
		{"socks5://:secret@a b:1", ""},
	} {
		d, err := socks.Via(local, tc.url)
		switch {
		case tc.want == "":
			if err == nil {
				t.Errorf("%s: taken", tc.url)
			} else if strings.Contains(err.Error(), "sec") || !strings.HasPrefix(err.Error(), "socks: upstream ") {
				t.Errorf("%s: %v", tc.url, err)
			}
		case err != nil:
			t.Errorf("%s: %v", tc.url, err)
		case tc.want == "direct":
			if d != nil {
				t.Errorf("direct is a %T", d)
			}
		case fmt.Sprint(d) != tc.want:
			t.Errorf("%s: %v, want %s", tc.url, d, tc.want)
		}
	}
}

// Each mistake is told by its own cause.
func TestParseUpstreamCause(t *testing.T) {
	for _, tc := range []struct{ url, want string }{
		{"socks5://x:99999", "99999 is not a port"},
		{"socks5://u:p@x:0", "0 is not a port"},
		{"socks5://x:1#y", `what follows "socks5://x:1"`},
		{"socks5://u:p@x:1/y", `what follows "socks5://x:1"`},
		{"socks5://x:1?y", `what follows "socks5://x:1"`},
		{"gopher://x:70", `"gopher://" is not protocol; use socks5://, socks5h://, socks4a:// or http://`},
		{"socks5://u:a#b@x:1", "%23"},
		{"socks5://u:1/b@x:1", "%2F"},
		{"socks4a://u:p@x:1", "SOCKS4a has no password"},
		{"socks5://", "no host"},
		{"socks5://:1080", "no host"},
	} {
		_, err := socks.ParseUpstream(tc.url)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.url, err, tc.want)
		}
	}
}

// chains are ways from a client to a server over ours, with their upstreams.
func chains(t *testing.T, d socks.Dialer, cfg socks.Config) map[string]socks.Upstream {
	open := start(t, d, cfg)
	closed := start(t, d, socks.Config{Auth: credentials(t, "u:p"), Resolver: cfg.Resolver})
	return map[string]socks.Upstream{
		"none":              via(t, local, "socks5://"+open.addr),
		"password":          via(t, local, "socks5://u:p@"+closed.addr),
		"password unasked":  via(t, local, "socks5://u:p@"+open.addr),
		"socks4a":           via(t, local, "socks4a://me@"+open.addr),
		"http":              via(t, local, "http://"+open.addr),
		"http and password": via(t, local, "http://u:p@"+closed.addr),
		"socks, http":       via(t, local, "socks5://"+open.addr, "http://u:p@"+closed.addr),
		"http, socks":       via(t, local, "http://"+open.addr, "socks5://u:p@"+closed.addr),
		"socks4a, socks":    via(t, local, "socks4a://"+open.addr, "socks5://u:p@"+closed.addr),
		"socks twice":       via(t, local, "socks5://u:p@"+closed.addr, "socks5://"+open.addr),
	}
}

func TestClientConnect(t *testing.T) {
	target := echo(t)
	for name, d := range chains(t, local, socks.Config{}) {
		t.Run(name, func(t *testing.T) {
			for _, host := range []string{target, "echo.test:" + port(target)} {
				for range 2 { // the second time it knows the server
					c, err := d.DialContext(t.Context(), "tcp", host)
					if err != nil {
						t.Fatal(err)
					}
					if _, plain := c.(*net.TCPConn); !plain {
						t.Errorf("%T, want a *net.TCPConn", c)
					}
					send(t, c, "hello")
					c.(interface{ CloseWrite() error }).CloseWrite()
					want(t, c, "hello")
					wantEOF(t, c)
					c.Close()
				}
			}
		})
	}
}

// TestClientEarlyServer has the destination speak first: what came in one
// piece with the reply must not be lost.
func TestClientEarlyServer(t *testing.T) {
	for scheme, answer := range map[string]string{
		"socks5":  "\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00",
		"socks4a": "\x00\x5a\x00\x00\x00\x00\x00\x00",
		"http":    "HTTP/1.0 200 fine\r\nServer: x\r\n\r\n",
	} {
		fake := serveTCP(t, "127.0.0.1:0", func(c net.Conn) {
			c.Read(make([]byte, 1000))
			io.WriteString(c, answer+"220 welcome\r\n")
			io.Copy(io.Discard, c)
		})
		c, err := via(t, local, scheme+"://"+fake).DialContext(t.Context(), "tcp", "127.0.0.1:1")
		if err != nil {
			t.Fatal(err)
		}
		want(t, c, "220 welcome\r\n")
		c.Close()
	}
}

// TestErrnoThroughProxy takes a dial error through a server of ours and a
// client of ours: the application must see the same errno.
func TestErrnoThroughProxy(t *testing.T) {
	var cause atomic.Pointer[error]
	d := dialFunc{local, func(context.Context, string, string) (net.Conn, error) { return nil, *cause.Load() }}
	p := start(t, d, socks.Config{})
	for _, tc := range []struct {
		err   error
		reply wire.Reply
		errno syscall.Errno
	}{
		{syscall.ECONNREFUSED, wire.ReplyConnectionRefused, syscall.ECONNREFUSED},
		{syscall.ENETUNREACH, wire.ReplyNetworkUnreachable, syscall.ENETUNREACH},
		{syscall.EHOSTUNREACH, wire.ReplyHostUnreachable, syscall.EHOSTUNREACH},
		{&net.DNSError{Err: "no such host", IsNotFound: true}, wire.ReplyHostUnreachable, syscall.EHOSTUNREACH},
		{&net.DNSError{Err: "i/o timeout", IsTimeout: true}, wire.ReplyHostUnreachable, syscall.EHOSTUNREACH},
		{syscall.ETIMEDOUT, wire.ReplyTTLExpired, syscall.ETIMEDOUT},
		{context.DeadlineExceeded, wire.ReplyTTLExpired, syscall.ETIMEDOUT},
		{os.ErrDeadlineExceeded, wire.ReplyTTLExpired, syscall.ETIMEDOUT},
		{syscall.EACCES, wire.ReplyNotAllowed, syscall.EACCES},
		{syscall.EPERM, wire.ReplyNotAllowed, syscall.EACCES},
		{syscall.EAFNOSUPPORT, wire.ReplyAddressType, syscall.EAFNOSUPPORT},
		{errors.ErrUnsupported, wire.ReplyCommand, syscall.EOPNOTSUPP},
		{errors.New("else"), wire.ReplyGeneralFailure, 0},
		{syscall.EMFILE, wire.ReplyGeneralFailure, 0},
		{errors.Join(syscall.ENETUNREACH, syscall.ECONNREFUSED), wire.ReplyConnectionRefused, syscall.ECONNREFUSED},
	} {
		wrapped := error(&net.OpError{Op: "dial", Err: fmt.Errorf("deep: %w", tc.err)})
		cause.Store(&wrapped)
		c := dial(t, p.addr)
		socks5(t, c, wire.Connect, "10.0.0.7:80", tc.reply)
		wantEOF(t, c)
		for _, scheme := range []string{"socks5", "http"} {
			_, err := via(t, local, scheme+"://"+p.addr).DialContext(t.Context(), "tcp", "10.0.0.7:80")
			var op *socks.OpError
			if !errors.As(err, &op) || op.Op != "connect" || op.Addr != "10.0.0.7:80" {
				t.Errorf("%v: %T %v, want an OpError", tc.err, err, err)
			}
			if tc.errno == syscall.EAFNOSUPPORT || tc.errno == syscall.EOPNOTSUPP {
				if scheme == "http" { // has no word for them
					continue
				}
			}
			if tc.errno != 0 && !errors.Is(err, tc.errno) {
				t.Errorf("%s: %v arrives as %v, want %v", scheme, tc.err, err, tc.errno)
			}
		}
	}
}

func TestClientErrors(t *testing.T) {
	target := echo(t)
	p := start(t, local, socks.Config{Auth: credentials(t, "u:p")})
	answers := func(text string) string {
		return serveTCP(t, "127.0.0.1:0", func(c net.Conn) {
			c.Read(make([]byte, 100))
			io.WriteString(c, text)
		})
	}
	speak := func(text string) string { return "socks5://" + answers(text) }
	silent := serveTCP(t, "127.0.0.1:0", func(c net.Conn) { io.Copy(io.Discard, c) })
	for _, tc := range []struct {
		name, url string
		is        error
	}{
		{"no upstream", "socks5://" + closedPort(t), syscall.ECONNREFUSED},
		{"no HTTP upstream", "http://" + closedPort(t), syscall.ECONNREFUSED},
		{"wrong password", "socks5://u:x@" + p.addr, socks.ErrAuth},
		{"no password", "socks5://" + p.addr, socks.ErrMethod},
		{"wrong HTTP password", "http://u:x@" + p.addr, socks.ErrAuth},
		{"not SOCKS", speak("HTTP/1.0 400\r\n\r\n"), wire.ErrVersion},
		{"closes", speak(""), syscall.ECONNRESET},
		{"closes later", speak("\x05\x00\x05\x00\x00"), syscall.ECONNRESET},
		{"unknown address type", speak("\x05\x00\x05\x00\x00\x09"), wire.ErrAddrType},
		{"refusal with odd address", speak("\x05\x00\x05\x05\x00\x09"), syscall.ECONNREFUSED},
		{"SOCKS4a wants a password", "socks4a://u@" + p.addr, socks.ErrAuth},
		{"no SOCKS4a", "socks4a://" + answers("\x05\xff"), wire.ErrVersion},
		{"SOCKS4a closes", "socks4a://" + answers("\x00\x5a\x00"), syscall.ECONNRESET},
		{"silent SOCKS4a", "socks4a://" + silent, context.DeadlineExceeded},
		{"silent", "socks5://" + silent, context.DeadlineExceeded},
		{"silent HTTP", "http://" + silent, context.DeadlineExceeded},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := t.Context(), context.CancelFunc(func() {})
			if strings.HasPrefix(tc.name, "silent") {
				ctx, cancel = context.WithTimeout(ctx, 50*time.Millisecond)
			}
			defer cancel()
			_, err := via(t, local, tc.url).DialContext(ctx, "tcp", target)
			if !errors.Is(err, tc.is) {
				t.Fatalf("%v, want %v", err, tc.is)
			}
			if strings.Contains(err.Error(), "u:") {
				t.Errorf("credentials in %q", err)
			}
		})
	}
	_, err := via(t, local, "socks4a://"+answers("\x00\x5b\x00\x00\x00\x00\x00\x00")).DialContext(t.Context(), "tcp", target)
	if reply := new(socks.ReplyError); !errors.As(err, &reply) {
		t.Errorf("SOCKS4a refuses: %v", err)
	}
	d := via(t, local, "socks5://"+p.addr)
	for _, address := range []string{"", "h", ":80", "a b:1", "h:99999", strings.Repeat("x", 256) + ":1", "a\r\nb:1"} {
		if _, err := d.DialContext(t.Context(), "tcp", address); err == nil {
			t.Errorf("dialed %q", address)
		}
	}
}

// TestClientPipelining counts round trips: the handshakes with servers that do
// and do not take everything at once.
func TestClientPipelining(t *testing.T) {
	for _, tc := range []struct {
		name, url string
		drop      bool // the server throws away what it got behind the greeting
		reads     []int
	}{
		// How many messages each handshake took: first 1, then always 1.
		{"can", "socks5://", false, []int{1, 1}},
		{"can with password", "socks5://u:p@", false, []int{1, 1}},
		// First one in vain, then one by one, and from then on only that.
		{"can't", "socks5://", true, []int{1, 2, 2}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			reads := make(chan int, 10)
			fake := serveTCP(t, "127.0.0.1:0", func(c net.Conn) {
				b := make([]byte, 1000)
				n, _ := c.Read(b)
				count := 1
				defer func() { reads <- count }()
				greeting, used, _ := wire.ParseGreeting(b[:n])
				rest := append([]byte(nil), b[used:n]...)
				if tc.drop {
					rest = nil
				}
				more := func() bool {
					n, err := c.Read(b)
					if err != nil {
						return false
					}
					count++
					rest = append(rest, b[:n]...)
					return true
				}
				method := greeting.Methods[len(greeting.Methods)-1]
				c.Write(wire.AppendMethod(nil, method))
				if method == wire.MethodUserPass {
					if len(rest) == 0 && !more() {
						return
					}
					_, used, _ = wire.ParseUserPass(rest)
					rest = rest[used:]
					c.Write(wire.AppendAuthStatus(nil, true))
				}
				if len(rest) == 0 && !more() {
					return
				}
				c.Write(wire.Response{}.Append(nil))
			})
			d := via(t, local, tc.url+fake)
			for range 2 {
				c, err := d.DialContext(t.Context(), "tcp", "127.0.0.1:1")
				if err != nil {
					t.Fatal(err)
				}
				c.Close()
			}
			for i, n := range tc.reads {
				if got := <-reads; got != n {
					t.Errorf("handshake %d took %d messages, want %d", i, got, n)
				}
			}
		})
	}
}

func TestClientUDP(t *testing.T) {
	_, e4 := udpEcho(t, "127.0.0.1:0")
	_, e6 := udpEcho(t, "[::1]:0")
	for name, d := range chains(t, local, socks.Config{Resolver: local}) {
		t.Run(name, func(t *testing.T) {
			pc, err := d.ListenPacket(t.Context(), "udp", "")
			if strings.Contains(name, "http") || strings.Contains(name, "socks4a") {
				if !errors.Is(err, errors.ErrUnsupported) {
					t.Fatalf("%v, want ErrUnsupported", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer pc.Close()
			if name == "password unasked" { // this server resolves names
				exchange(t, pc, wire.Addr{Name: "echo.test", Port: e4.Port()}, e4, []byte("named"))
			}
			exchange(t, pc, net.UDPAddrFromAddrPort(e4), e4, []byte("four"))
			exchange(t, pc, net.UDPAddrFromAddrPort(e6), e6, []byte("six"))
			exchange(t, pc, net.UDPAddrFromAddrPort(e4), e4, nil)
			if name == "none" {
				big := bytes.Repeat([]byte("x"), 65507-10)
				exchange(t, pc, net.UDPAddrFromAddrPort(e4), e4, big)
				if _, err := pc.WriteTo(make([]byte, 65528), net.UDPAddrFromAddrPort(e4)); !errors.Is(err, syscall.EMSGSIZE) {
					t.Errorf("an impossible datagram: %v, want EMSGSIZE", err)
				}
			}
			pc.SetReadDeadline(time.Now())
			if _, _, err := pc.ReadFrom(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("after the deadline: %v", err)
			}

			c, err := d.DialContext(t.Context(), "udp", e4.String())
			if err != nil {
				t.Fatal(err)
			}
			send(t, c, "connected")
			want(t, c, "connected")
			if c.RemoteAddr().String() != e4.String() {
				t.Errorf("RemoteAddr %v, want %v", c.RemoteAddr(), e4)
			}
			c.Close()
		})
	}
}

func exchange(t *testing.T, pc net.PacketConn, to net.Addr, from netip.AddrPort, payload []byte) {
	t.Helper()
	if _, err := pc.WriteTo(payload, to); err != nil {
		t.Fatal(err)
	}
	pc.SetReadDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, 65536)
	n, addr, err := pc.ReadFrom(b)
	if err != nil {
		t.Fatal(err)
	}
	if u, ok := addr.(*net.UDPAddr); !ok || addrPort(u) != from || !bytes.Equal(b[:n], payload) {
		t.Fatalf("%d bytes from %v, want %d from %v", n, addr, len(payload), from)
	}
}

// TestClientUDPEnds checks that the end of the TCP connection is the end of
// the association, and Close of our end.
func TestClientUDPEnds(t *testing.T) {
	p := start(t, local, socks.Config{})
	d := via(t, local, "socks5://"+p.addr)
	pc, err := d.ListenPacket(t.Context(), "udp", "")
	if err != nil {
		t.Fatal(err)
	}
	p.flows.Kill(p.flows.Flows()[0].ID)
	_, _, err = pc.ReadFrom(make([]byte, 10))
	var op *socks.OpError
	if !errors.As(err, &op) || !errors.Is(err, io.EOF) {
		t.Errorf("%v, want an OpError that wraps EOF", err)
	}
	pc.Close()
	pc, err = d.ListenPacket(t.Context(), "udp", "")
	if err != nil {
		t.Fatal(err)
	}
	go pc.Close()
	if _, _, err = pc.ReadFrom(make([]byte, 10)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v, want ErrClosed", err)
	}
	pc.Close()
	eventually(t, "the server's flows end", func() bool { return p.flows.Len() == 0 })
}

// TestClientUDPUnspecified has the server answer 0.0.0.0 as BND.ADDR.
func TestClientUDPUnspecified(t *testing.T) {
	relay := listenUDP(t, "127.0.0.1:0")
	bnd := netip.AddrPortFrom(netip.IPv4Unspecified(), addrPort(relay.LocalAddr()).Port())
	fake := serveTCP(t, "127.0.0.1:0", func(c net.Conn) {
		c.Read(make([]byte, 100))
		c.Write(wire.Response{Addr: wire.AddrFrom(bnd)}.Append(wire.AppendMethod(nil, 0)))
		io.Copy(io.Discard, c)
	})
	for _, host := range []string{fake, "echo.test:" + port(fake)} {
		pc, err := via(t, local, "socks5://"+host).ListenPacket(t.Context(), "udp", "")
		if err != nil {
			t.Fatal(err)
		}
		pc.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(1, 2, 3, 4), Port: 5})
		b := make([]byte, 100)
		relay.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, from, err := relay.ReadFromUDPAddrPort(b)
		if err != nil || string(b[:n]) != "\x00\x00\x00\x01\x01\x02\x03\x04\x00\x05x" {
			t.Fatalf("%q %v", b[:n], err)
		}
		// Garbage and fragments are skipped; what follows is read.
		relay.WriteToUDPAddrPort([]byte("junk"), from)
		relay.WriteToUDPAddrPort([]byte("\x00\x00\x01\x01\x01\x02\x03\x04\x00\x05frag"), from)
		relay.WriteToUDPAddrPort([]byte("\x00\x00\x00\x03\x01a\x00\x05name"), from)
		relay.WriteToUDPAddrPort([]byte("\x00\x00\x00\x01\x01\x02\x03\x04\x00\x05good"), from)
		pc.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, addr, err := pc.ReadFrom(b)
		if err != nil || string(b[:n]) != "good" || addr.String() != "1.2.3.4:5" {
			t.Fatalf("%q from %v, %v", b[:n], addr, err)
		}
		pc.Close()
	}
}

// TestConn runs the suite for net.Conn over two proxies.
func TestConn(t *testing.T) {
	for name, d := range chains(t, local, socks.Config{}) {
		if name != "none" && name != "http, socks" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				ln, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					return nil, nil, nil, err
				}
				defer ln.Close()
				c1, err = d.DialContext(context.Background(), "tcp", ln.Addr().String())
				if err != nil {
					return nil, nil, nil, err
				}
				c2, err = ln.Accept()
				if err != nil {
					c1.Close()
					return nil, nil, nil, err
				}
				return c1, c2, func() { c1.Close(); c2.Close() }, nil
			})
		})
	}
}
