package socks_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"netstackd/internal/flow"
	"netstackd/socks"
	"netstackd/socks/wire"
)

// stuck dials never succeed; they tell that they have begun, and why they
// ended.
type stuck struct {
	hostDialer
	begun chan struct{}
	ended chan error
}

func newStuck() *stuck {
	return &stuck{begun: make(chan struct{}, 100), ended: make(chan error, 100)}
}

func (d *stuck) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d.begun <- struct{}{}
	<-ctx.Done()
	d.ended <- context.Cause(ctx)
	return nil, ctx.Err()
}

func TestServerHangupCancelsDial(t *testing.T) {
	for _, how := range []string{"close", "reset", "reset after early data"} {
		t.Run(how, func(t *testing.T) {
			d := newStuck()
			p := start(t, d, socks.Config{DialTimeout: time.Minute})
			c := dial(t, p.addr)
			send(t, c, "\x05\x01\x00"+request5(t, wire.Connect, "10.0.0.7:80"))
			want(t, c, "\x05\x00")
			<-d.begun
			switch how {
			case "reset":
				c.SetLinger(0)
			case "reset after early data":
				send(t, c, "data")
				c.SetLinger(0)
			}
			c.Close()
			if err := <-d.ended; err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the dial ended with %v", err)
			}
			eventually(t, "the flow ends", func() bool { return p.flows.Len() == 0 })
		})
	}
}

// TestServerHalfCloseDuringDial is the optimistic client: data and FIN before
// the answer.
func TestServerHalfCloseDuringDial(t *testing.T) {
	target := echo(t)
	release := make(chan struct{})
	d := dialFunc{local, func(ctx context.Context, network, address string) (net.Conn, error) {
		select {
		case <-release:
			return local.DialContext(ctx, network, address)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}}
	p := start(t, d, socks.Config{})
	for _, size := range []int{1, 10, 5000} { // in the buffer, and beyond it
		c := dial(t, p.addr)
		data := strings.Repeat("x", size)
		send(t, c, "\x05\x01\x00"+request5(t, wire.Connect, target)+data)
		c.CloseWrite()
		want(t, c, "\x05\x00")
		time.AfterFunc(150*time.Millisecond, func() { release <- struct{}{} }) // past the watch's delay
		if r := reply5(t, c); r.Reply != wire.ReplySucceeded {
			t.Fatalf("reply %v", r.Reply)
		}
		want(t, c, data)
		wantEOF(t, c)
	}
}

func TestServerDialTimeout(t *testing.T) {
	p := start(t, newStuck(), socks.Config{DialTimeout: 20 * time.Millisecond})
	socks5(t, dial(t, p.addr), wire.Connect, "10.0.0.7:80", wire.ReplyTTLExpired)
	c := dial(t, p.addr)
	send(t, c, "CONNECT 10.0.0.7:80 HTTP/1.1\r\nHost: x\r\n\r\n")
	want(t, c, "HTTP/1.1 504 Gateway Timeout\r\n")
	c = dial(t, p.addr)
	send(t, c, "GET http://10.0.0.7/ HTTP/1.1\r\nHost: x\r\n\r\n")
	want(t, c, "HTTP/1.1 504 Gateway Timeout\r\n")
}

// TestServerDialsYield fills the dials with dead destinations: a live one must
// get through, at the cost of the oldest dead one.
func TestServerDialsYield(t *testing.T) {
	target := echo(t)
	dead := newStuck()
	d := dialFunc{local, func(ctx context.Context, network, address string) (net.Conn, error) {
		if address == target {
			return local.DialContext(ctx, network, address)
		}
		return dead.DialContext(ctx, network, address)
	}}
	p := startLimited(t, "127.0.0.1:0", d, socks.Config{DialTimeout: time.Minute}, flow.Config{MaxPendingPerSource: 2})
	first, second := dial(t, p.addr), dial(t, p.addr)
	for _, c := range []net.Conn{first, second} {
		send(t, c, "\x05\x01\x00"+request5(t, wire.Connect, "10.0.0.7:80"))
		want(t, c, "\x05\x00")
		<-dead.begun
	}
	socks5(t, dial(t, p.addr), wire.Connect, target, wire.ReplySucceeded)
	if r := reply5(t, first); r.Reply != wire.ReplyTTLExpired {
		t.Errorf("the oldest dial ended with %v", r.Reply)
	}
	if s := p.flows.Stats(); s.Pending != 1 || s.Evicted != 1 || s.Open != 2 {
		t.Errorf("stats %+v", s)
	}
}

func TestServerRefusals(t *testing.T) {
	target := echo(t)
	http := "CONNECT " + target + " HTTP/1.1\r\nHost: x\r\n\r\n"
	t.Run("client", func(t *testing.T) {
		p := start(t, local, socks.Config{Rule: refuseIf(func(r *socks.Request) bool {
			return r.Source.Addr() == netip.MustParseAddr("127.0.0.1") && r.Command == 0
		})})
		c, err := net.Dial("tcp", p.addr)
		if err == nil { // the reset may even be faster than this
			defer c.Close()
			_, err = c.Read(make([]byte, 1))
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%v, want a reset", err)
		}
	})
	t.Run("rule", func(t *testing.T) {
		p := start(t, local, socks.Config{Rule: refuseIf(func(r *socks.Request) bool { return r.Dest.String() == target })})
		socks5(t, dial(t, p.addr), wire.Connect, target, wire.ReplyNotAllowed)
		c := dial(t, p.addr)
		send(t, c, http)
		want(t, c, "HTTP/1.1 403 ")
	})
	t.Run("limit", func(t *testing.T) {
		p := start(t, local, socks.Config{})
		p.flows.SetLimit(1)
		socks5(t, dial(t, p.addr), wire.Connect, target, wire.ReplySucceeded)
		socks5(t, dial(t, p.addr), wire.Connect, target, wire.ReplyGeneralFailure)
		socks5(t, dial(t, p.addr), wire.Bind, target, wire.ReplyGeneralFailure)
		socks5(t, dial(t, p.addr), wire.Associate, "0.0.0.0:0", wire.ReplyGeneralFailure)
		for _, open := range []string{http, "GET http://" + target + "/ HTTP/1.1\r\nHost: x\r\n\r\n"} {
			c := dial(t, p.addr)
			send(t, c, open)
			want(t, c, "HTTP/1.1 503 ")
		}
		c := dial(t, p.addr)
		send(t, c, socks4Request(t, target, ""))
		want(t, c, "\x00\x5b\x00\x00\x00\x00\x00\x00")
		wantEOF(t, c)
		if s := p.Stats(); s.Refused != 6 {
			t.Errorf("%d refused, want 6", s.Refused)
		}
	})
	t.Run("commands and addresses", func(t *testing.T) {
		p := start(t, local, socks.Config{})
		socks5(t, dial(t, p.addr), 9, target, wire.ReplyCommand)
		for _, tc := range []struct {
			request string
			reply   wire.Reply
		}{
			{"\x05\x01\x00\x02\x00\x50", wire.ReplyAddressType},
			{"\x05\x01\x00\x03\x00\x00\x50", wire.ReplyHostUnreachable},
			{"\x05\x01\x00\x03\x03a\x00b\x00\x50", wire.ReplyHostUnreachable},
			{"\x05\x01\x00\x03\x0cnowhere.test\x00\x50", wire.ReplyHostUnreachable},
			{"\x05\x02\x00\x03\x03a\x00b\x00\x50", wire.ReplyHostUnreachable},
		} {
			c := dial(t, p.addr)
			send(t, c, "\x05\x01\x00"+tc.request+"much more that nobody reads")
			want(t, c, "\x05\x00")
			if r := reply5(t, c); r.Reply != tc.reply {
				t.Errorf("%q: %v, want %v", tc.request, r.Reply, tc.reply)
			}
			wantEOF(t, c)
		}
		c := dial(t, p.addr)
		send(t, c, "\x04\x03\x00\x50\x7f\x00\x00\x01\x00") // no UDP in SOCKS4
		want(t, c, "\x00\x5b")
	})
}

// TestServerGarbage sends garbage for as long as the server takes it.
func TestServerGarbage(t *testing.T) {
	p := start(t, local, socks.Config{})
	junk := bytes.Repeat([]byte("\xa5\x00\xff\x17"), 16<<10)
	for _, first := range []string{"\x00", "\x16\x03\x01", "\x05\x00", "\x05\xff", "\x04\x01\x00\x50\x01\x01\x01\x01", "\x05\x01\x00\x05\x01\x00\x07", "\x05\x01\x02\x07", "GET / HTTP/1.1\r\nX: ", "POST ", "\xff"} {
		c := dial(t, p.addr)
		go io.Copy(io.Discard, c)
		c.Write([]byte(first))
		sum := 0
		for {
			n, err := c.Write(junk)
			sum += n
			if err != nil {
				break
			}
			if sum > 64<<20 {
				t.Errorf("%q: the server has taken %d bytes of garbage", first, sum)
				break
			}
		}
		c.Close()
	}
	eventually(t, "no handshake is left", func() bool { return p.Stats().Handshakes == 0 })
	if p.flows.Len() != 0 {
		t.Error("garbage opened a flow")
	}
}

// TestServerSlow has clients that send one byte and stop.
func TestServerSlow(t *testing.T) {
	const clients, limit = 10000, 500
	target := echo(t)
	p := start(t, local, socks.Config{MaxHandshakes: limit, MaxHandshakesPerClient: limit, HandshakeTimeout: time.Minute})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	conns := make([]net.Conn, 0, clients)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for i := range clients {
		c, err := net.Dial("tcp", p.addr)
		if errors.Is(err, syscall.ECONNRESET) { // refused, so soon
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte{"\x05\x04GP"[i%4]})
		conns = append(conns, c)
	}
	eventually(t, "all have been accepted", func() bool { return p.Stats().Accepted == clients })
	if n := p.Stats().Handshakes; n > limit {
		t.Errorf("%d handshakes under way, the limit is %d", n, limit)
	}
	if n := runtime.NumGoroutine(); n > 6*limit {
		t.Errorf("%d goroutines", n)
	}
	eventually(t, "an honest client gets through", func() bool {
		c, err := via(t, local, "socks5://"+p.addr).DialContext(t.Context(), "tcp", target)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapInuse) - int64(before.HeapInuse); grown > 64<<20 {
		t.Errorf("the heap has grown by %d MB", grown>>20)
	}
}

// TestServerHandshakeTimeout has clients that never finish, one of them busy.
func TestServerHandshakeTimeout(t *testing.T) {
	p := start(t, local, socks.Config{HandshakeTimeout: 50 * time.Millisecond})
	for _, open := range []string{"", "\x05", "\x05\x01\x00", "\x04\x01", "G", "GET http://x/ HTTP/1.1\r\n"} {
		c := dial(t, p.addr)
		send(t, c, open)
		if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%q: %v", open, err)
		}
	}
	c := dial(t, p.addr)
	send(t, c, "\x04\x01\x00\x50\x01\x01\x01\x01")
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 200 { // within the limit for a user name: time must end it
		<-tick.C
		if _, err := c.Write([]byte("u")); err != nil {
			return
		}
	}
	t.Error("a trickle keeps a handshake alive")
}

// TestServerNeverReads has a client that sends and does not read; others must
// not suffer, and the flow must end when it goes.
func TestServerNeverReads(t *testing.T) {
	flood := serveTCP(t, "127.0.0.1:0", func(c net.Conn) {
		b := make([]byte, 64<<10)
		for {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	})
	target := echo(t)
	p := start(t, local, socks.Config{})
	var lazy []*net.TCPConn
	for range 20 {
		c := dial(t, p.addr)
		socks5(t, c, wire.Connect, flood, wire.ReplySucceeded)
		lazy = append(lazy, c)
	}
	c := dial(t, p.addr)
	socks5(t, c, wire.Connect, target, wire.ReplySucceeded)
	send(t, c, "hello")
	want(t, c, "hello")
	c.Close()
	for _, c := range lazy {
		c.Close()
	}
	eventually(t, "all flows end", func() bool { return p.flows.Len() == 0 })
}

// FuzzServer sends a conversation at once, and then in two pieces: the server
// must answer the same, or be cut short by its own reset, and let go.
func FuzzServer(f *testing.F) {
	for _, seed := range []string{
		"\x05\x01\x00\x05\x01\x00\x01\x0a\x00\x00\x07\x00\x50early", "\x05\x02\x00\x02\x05\x01\x00\x03\x01a\x00\x50",
		"\x05\x01\x02\x01\x01u\x01p\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00", "\x04\x01\x00\x50\x00\x00\x00\x01me\x00name\x00early",
		"\x05\x01\x02\x01\x01u\x01x", "\x04\x02\x00\x50\x0a\x00\x00\x07\x00", "\x05\x01\x00\x05\x07\x00\x09", "\x16\x03\x01",
	} {
		f.Add([]byte(seed), 1)
		f.Add([]byte(seed), len(seed)/2)
	}
	refuse := dialFunc{local, func(context.Context, string, string) (net.Conn, error) {
		return nil, syscall.ECONNREFUSED
	}}
	noUDP := func(netip.Addr) (net.PacketConn, error) { return nil, syscall.EADDRNOTAVAIL }
	servers := []*proxy{
		start(f, refuse, socks.Config{ListenUDP: noUDP, BindTimeout: time.Millisecond}),
		start(f, refuse, socks.Config{ListenUDP: noUDP, BindTimeout: time.Millisecond, Auth: credentials(f, "u:p")}),
	}
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		if len(b) == 0 || len(b) > 2000 || 'A' <= b[0]&^0x20 && b[0]&^0x20 <= 'Z' {
			return // HTTP is net/http's
		}
		cut = max(0, min(cut, len(b)))
		for _, p := range servers {
			var answers [2][]byte
			for i, pieces := range [][][]byte{{b}, {b[:cut], b[cut:]}} {
				c := dial(t, p.addr)
				for _, piece := range pieces {
					c.Write(piece)
				}
				c.CloseWrite()
				answers[i], _ = io.ReadAll(c)
				c.SetLinger(0) // no TIME_WAIT, or the ports run out
				c.Close()
			}
			if !bytes.HasPrefix(answers[0], answers[1]) && !bytes.HasPrefix(answers[1], answers[0]) {
				t.Errorf("at once %q, in pieces %q", answers[0], answers[1])
			}
			eventually(t, "no flow is left", func() bool { return p.flows.Len() == 0 && p.Stats().Handshakes == 0 })
		}
	})
}
