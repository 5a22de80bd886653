package socks_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
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
