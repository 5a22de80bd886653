package socks_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"netstackd/socks"
)

// webServer answers plain requests, and switches protocols where asked to.
func webServer(t testing.TB) (address string) {
	t.Helper()
	return serveTCP(t, "127.0.0.1:0", func(c net.Conn) {
		in := bufio.NewReader(c)
		for {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			if r.Header.Get("Upgrade") != "" {
				io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
				io.Copy(c, in)
				return
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
}

// get makes one plain request and reads the answer, after which the connection
// is idle.
func get(t testing.TB, c net.Conn, address string) {
	t.Helper()
	send(t, c, "GET http://"+address+"/ HTTP/1.1\r\nHost: x\r\n\r\n")
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r.Body); err != nil || string(b) != "ok" {
		t.Fatalf("body %q, %v", b, err)
	}
}

// ended waits for the end of a connection, by FIN or reset.
func ended(t testing.TB, c net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("the connection goes on: %v", err)
	}
}

// A connection whose credentials were refused is closed: kept, it would be
// outside every limit.
func TestHTTPRefusedCredentialsClose(t *testing.T) {
	p := start(t, local, socks.Config{Auth: credentials(t, "u:p"), HandshakeTimeout: time.Minute})
	for _, field := range []string{"", "Proxy-Authorization: Basic dTp4\r\n"} { // u:x
		c := dial(t, p.addr)
		send(t, c, "GET http://10.0.0.7/ HTTP/1.1\r\nHost: x\r\n"+field+"\r\n")
		b, err := io.ReadAll(c)
		if err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 407 ") || !strings.Contains(string(b), "Connection: close\r\n") {
			t.Errorf("%q: %q, %v", field, b, err)
		}
	}
	eventually(t, "no handshake is left", func() bool { return p.Stats().Handshakes == 0 })
}

// A connection holds its place among the handshakes until it is authenticated,
// whatever it sends.
func TestHTTPHandshakesCount(t *testing.T) {
	const limit = 4
	p := start(t, local, socks.Config{MaxHandshakes: limit, MaxHandshakesPerClient: limit, HandshakeTimeout: time.Minute})
	for range limit {
		c := dial(t, p.addr)
		send(t, c, "GET http://x/ HTTP/1.1\r\nX: "+strings.Repeat("x", 8000))
	}
	eventually(t, "they count", func() bool { return p.Stats().Handshakes == limit })
	// One more is refused while the others are young.
	if c, err := net.Dial("tcp", p.addr); err == nil { // the reset may be faster
		defer c.Close()
		ended(t, c)
	}
	if s := p.Stats(); s.Handshakes != limit || s.HandshakesEvicted != 1 {
		t.Errorf("stats %+v", s)
	}
}

// A client's idle connections are limited, and the oldest gives way.
func TestHTTPIdleLimit(t *testing.T) {
	target := webServer(t)
	p := start(t, local, socks.Config{MaxIdlePerClient: 2})
	var conns []net.Conn
	for i := range 3 {
		c := dial(t, p.addr)
		get(t, c, target)
		conns = append(conns, c)
		eventually(t, "it is idle", func() bool { return p.Stats().Idle == min(i+1, 2) })
	}
	ended(t, conns[0])
	for _, c := range conns[1:] {
		get(t, c, target)
	}
	if s := p.Stats(); s.IdleEvicted != 1 {
		t.Errorf("stats %+v", s)
	}
}

// An idle connection is what the server can spare.
func TestServerSpare(t *testing.T) {
	target := webServer(t)
	p := start(t, local, socks.Config{})
	if p.Spare() {
		t.Error("there was something to spare")
	}
	c := dial(t, p.addr)
	get(t, c, target)
	eventually(t, "it is idle", func() bool { return p.Stats().Idle == 1 })
	if !p.Spare() {
		t.Error("an idle connection was not spared")
	}
	ended(t, c)
}

func TestHTTPHeaderLimit(t *testing.T) {
	p := start(t, local, socks.Config{})
	c := dial(t, p.addr)
	send(t, c, "GET http://x/ HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("x", 24<<10)+"\r\n\r\n")
	want(t, c, "HTTP/1.1 431 ")
}

// Whatever clients do, Serve ends in time: idle ones and half a request at once,
// what is in progress after DrainTimeout.
func TestServerStopHTTP(t *testing.T) {
	target := webServer(t)
	const drain, slack = 300 * time.Millisecond, time.Second
	stop := func(t *testing.T, p *proxy, within time.Duration) {
		t.Helper()
		begin := time.Now()
		p.stop()
		if took := time.Since(begin); took > within {
			t.Errorf("Serve took %v to end, want %v", took, within)
		}
	}
	t.Run("idle", func(t *testing.T) {
		p := start(t, local, socks.Config{DrainTimeout: time.Minute})
		for range 10 {
			get(t, dial(t, p.addr), target)
		}
		eventually(t, "all are idle", func() bool { return p.Stats().Idle == 10 })
		stop(t, p, slack)
	})
	t.Run("half a request", func(t *testing.T) {
		p := start(t, local, socks.Config{DrainTimeout: time.Minute, HandshakeTimeout: time.Minute})
		for range 10 {
			send(t, dial(t, p.addr), "GET http://x/ HT")
		}
		eventually(t, "all have arrived", func() bool { return p.Stats().Handshakes == 10 })
		stop(t, p, slack)
	})
	t.Run("upgrade", func(t *testing.T) {
		p := start(t, local, socks.Config{DrainTimeout: drain})
		upgrade := func() net.Conn {
			c := dial(t, p.addr)
			send(t, c, "GET http://"+target+"/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			want(t, c, "HTTP/1.1 101 Switching Protocols\r\n")
			for last := byte(0); ; { // to the empty line
				var b [1]byte
				if _, err := c.Read(b[:]); err != nil {
					t.Fatal(err)
				}
				if b[0] == '\n' && last == '\n' {
					break
				}
				if b[0] != '\r' {
					last = b[0]
				}
			}
			send(t, c, "hello")
			want(t, c, "hello")
			return c
		}
		upgrade().Close() // one that is over
		lasting := upgrade()
		stop(t, p, drain+slack)
		ended(t, lasting)
	})
	t.Run("no answer", func(t *testing.T) {
		mute := serveTCP(t, "127.0.0.1:0", func(c net.Conn) { io.Copy(io.Discard, c) })
		p := start(t, local, socks.Config{DrainTimeout: drain})
		for range 10 {
			send(t, dial(t, p.addr), "POST http://"+mute+"/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nx")
		}
		eventually(t, "all are in progress", func() bool { return p.flows.Len() == 10 })
		stop(t, p, drain+slack)
	})
}
