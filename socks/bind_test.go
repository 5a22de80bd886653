package socks_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"netstackd/socks"
	"netstackd/socks/wire"
)

func TestBind(t *testing.T) {
	p := start(t, local, socks.Config{})
	for _, dst := range []string{"127.0.0.1:21", "0.0.0.0:0", "echo.test:0", "[::1]:21"} {
		t.Run(dst, func(t *testing.T) {
			c := dial(t, p.addr)
			r := socks5(t, c, wire.Bind, dst, wire.ReplySucceeded)
			if !r.Addr.IP.IsLoopback() || r.Addr.Port == 0 {
				t.Fatalf("listens on %v", r.Addr)
			}
			send(t, c, "early ")
			peer := dial(t, r.Addr.String())
			second := reply5(t, c)
			if second.Reply != wire.ReplySucceeded || second.Addr.AddrPort() != addrPort(peer.LocalAddr()) {
				t.Fatalf("second reply %+v, want the peer %v", second, peer.LocalAddr())
			}
			send(t, c, "bird")
			c.CloseWrite()
			want(t, peer, "early bird")
			wantEOF(t, peer)
			send(t, peer, "worm")
			peer.Close()
			want(t, c, "worm")
			wantEOF(t, c)
			// One accept: the listener is gone.
			if _, err := net.Dial("tcp", r.Addr.String()); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("a second peer: %v, want refused", err)
			}
		})
	}
}

// With zeros for DST.ADDR, the listener is where other hosts reach this one, not
// where a client came that is on this host.
func TestBindZeros(t *testing.T) {
	for _, c := range []struct {
		name, zeros string
		routes      map[string]string // host: the local address of the route to it
		want        string            // where to listen
	}{
		{"default route", "0.0.0.0:0", map[string]string{"198.41.0.4": "192.0.2.7", "2001:503:ba3e::2:30": "2001:db8::7"}, "192.0.2.7:0"},
		{"family of the zeros", "[::]:0", map[string]string{"198.41.0.4": "192.0.2.7", "2001:503:ba3e::2:30": "2001:db8::7"}, "[2001:db8::7]:0"},
		{"no IPv6", "[::]:0", map[string]string{"198.41.0.4": "192.0.2.7"}, "192.0.2.7:0"},
		{"client elsewhere", "0.0.0.0:0", map[string]string{"127.0.0.1": "10.0.0.7", "198.41.0.4": "192.0.2.7"}, "10.0.0.7:0"},
		{"client by this host's address", "0.0.0.0:0", map[string]string{"127.0.0.1": "127.0.0.1", "198.41.0.4": "192.0.2.7"}, "192.0.2.7:0"},
		{"no route", "0.0.0.0:0", nil, "127.0.0.1:0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &routedDialer{routes: c.routes, listened: make(chan string, 1)}
			p := start(t, d, socks.Config{})
			r := socks5(t, dial(t, p.addr), wire.Bind, c.zeros, wire.ReplySucceeded)
			if at := <-d.listened; at != c.want {
				t.Errorf("listens on %s, want %s", at, c.want)
			}
			dial(t, r.Addr.String())
		})
	}
}

// routedDialer has the routes that a test gives it, and listens on loopback
// wherever it is asked to.
type routedDialer struct {
	hostDialer
	routes   map[string]string
	listened chan string
}

func (d *routedDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	to := netip.MustParseAddrPort(address)
	local, ok := d.routes[to.Addr().String()]
	if network != "udp" || !ok {
		return nil, syscall.ENETUNREACH
	}
	c, err := d.hostDialer.DialContext(ctx, "udp", "127.0.0.1:9")
	return &routedConn{c, netip.AddrPortFrom(netip.MustParseAddr(local), 5353), to}, err
}

func (d *routedDialer) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	d.listened <- address
	return d.hostDialer.Listen(ctx, "tcp4", "127.0.0.1:0")
}

type routedConn struct {
	net.Conn
	local, remote netip.AddrPort
}

func (c *routedConn) LocalAddr() net.Addr  { return net.UDPAddrFromAddrPort(c.local) }
func (c *routedConn) RemoteAddr() net.Addr { return net.UDPAddrFromAddrPort(c.remote) }

// An upstream listens by itself: it need not carry UDP, by which a dialer on this
// host tells its own address.
func TestBindUpstream(t *testing.T) {
	first := start(t, local, socks.Config{})
	d := &tcpOnly{via(t, local, "socks5://"+first.addr)}
	p := start(t, d, socks.Config{})
	for _, dst := range []string{"127.0.0.1:21", "0.0.0.0:0"} {
		c := dial(t, p.addr)
		r := socks5(t, c, wire.Bind, dst, wire.ReplySucceeded)
		peer := dial(t, r.Addr.String())
		if second := reply5(t, c); second.Addr.AddrPort() != addrPort(peer.LocalAddr()) {
			t.Errorf("%s: second reply %+v, want the peer %v", dst, second, peer.LocalAddr())
		}
	}
}

// tcpOnly is a dialer in a wrapper, without UDP.
type tcpOnly struct{ socks.Upstream }

func (d *tcpOnly) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if network == "udp" {
		return nil, syscall.EAFNOSUPPORT
	}
	return d.Upstream.DialContext(ctx, network, address)
}

func TestBind4(t *testing.T) {
	p := start(t, local, socks.Config{})
	c := dial(t, p.addr)
	a, _ := wire.ParseHostPort("127.0.0.1:21")
	b, _ := wire.Request4{Command: wire.Bind, Addr: a}.Append(nil)
	c.Write(b)
	read := func() wire.Response4 {
		b := make([]byte, 8)
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatal(err)
		}
		r, _, err := wire.ParseResponse4(b)
		if err != nil || r.Code != 90 {
			t.Fatalf("%+v %v", r, err)
		}
		return r
	}
	peer := dial(t, read().Addr.String())
	if r := read(); r.Addr.AddrPort() != addrPort(peer.LocalAddr()) {
		t.Errorf("peer %v, want %v", r.Addr, peer.LocalAddr())
	}
	send(t, peer, "data")
	want(t, c, "data")
}

// TestBindPeer lets the wrong host come first.
func TestBindPeer(t *testing.T) {
	p := start(t, local, socks.Config{})
	c := dial(t, p.addr)
	r := socks5(t, c, wire.Bind, "127.0.0.1:21", wire.ReplySucceeded)
	from := func(ip string) (net.Conn, error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
		return d.Dial("tcp", r.Addr.String())
	}
	stranger, err := from("127.0.0.2")
	if err == nil { // the reset may even be faster than this
		defer stranger.Close()
		stranger.SetDeadline(time.Now().Add(5 * time.Second))
		_, err = stranger.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a stranger: %v, want a reset", err)
	}
	friend, err := from("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	defer friend.Close()
	if second := reply5(t, c); second.Addr.AddrPort() != addrPort(friend.LocalAddr()) {
		t.Errorf("second reply %+v", second)
	}
}

func TestBindTimeout(t *testing.T) {
	p := start(t, local, socks.Config{BindTimeout: 20 * time.Millisecond})
	c := dial(t, p.addr)
	r := socks5(t, c, wire.Bind, "0.0.0.0:0", wire.ReplySucceeded)
	if second := reply5(t, c); second.Reply != wire.ReplyTTLExpired {
		t.Errorf("second reply %v, want a timeout", second.Reply)
	}
	wantEOF(t, c)
	if _, err := net.Dial("tcp", r.Addr.String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after the timeout: %v, want refused", err)
	}
}

// TestBindGone ends waiting BINDs: the client hangs up, the flow is killed,
// the server stops.
func TestBindGone(t *testing.T) {
	p := start(t, local, socks.Config{})
	hangup := dial(t, p.addr)
	socks5(t, hangup, wire.Bind, "0.0.0.0:0", wire.ReplySucceeded)
	hangup.Close()
	eventually(t, "the flow ends", func() bool { return p.flows.Len() == 0 })
	killed := dial(t, p.addr)
	socks5(t, killed, wire.Bind, "0.0.0.0:0", wire.ReplySucceeded)
	p.flows.Kill(p.flows.Flows()[0].ID)
	if r := reply5(t, killed); r.Reply != wire.ReplyGeneralFailure {
		t.Errorf("after a kill: %v", r.Reply)
	}
	stopped := dial(t, p.addr)
	socks5(t, stopped, wire.Bind, "0.0.0.0:0", wire.ReplySucceeded)
	p.stop()
	if r := reply5(t, stopped); r.Reply != wire.ReplyGeneralFailure {
		t.Errorf("after the stop: %v", r.Reply)
	}
}

// TestClientBind binds through one upstream and through a chain.
func TestClientBind(t *testing.T) {
	first := start(t, local, socks.Config{})
	second := start(t, via(t, local, "socks5://"+first.addr), socks.Config{})
	for _, addr := range []string{first.addr, second.addr} {
		d := via(t, local, "socks5://"+addr)
		ln, err := d.Bind(t.Context(), wire.Addr{IP: netip.MustParseAddr("127.0.0.1"), Port: 21})
		if err != nil {
			t.Fatal(err)
		}
		peer := dial(t, ln.Addr().String())
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if c.RemoteAddr().String() != peer.LocalAddr().String() {
			t.Errorf("accepted %v, want %v", c.RemoteAddr(), peer.LocalAddr())
		}
		send(t, peer, "data")
		want(t, c, "data")
		if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("second accept: %v", err)
		}
		ln.Close()
		send(t, c, "still open")
		want(t, peer, "still open")
		c.Close()
		wantEOF(t, peer)
	}
	ln, err := via(t, local, "socks5://"+first.addr).Listen(t.Context(), "tcp", "")
	if err != nil {
		t.Fatal(err)
	}
	go ln.Close()
	if c, err := ln.Accept(); err == nil {
		c.Close()
		t.Error("accepted from a closed listener")
	}
}

// Zeros in a BIND stand for any peer and are not judged. The peer that connects is.
func TestBindRule(t *testing.T) {
	stranger := netip.MustParseAddr("127.0.0.2")
	p := start(t, local, socks.Config{Rule: refuseIf(func(r *socks.Request) bool {
		return r.Dest.IP == stranger || r.Dest.IP.IsUnspecified()
	})})
	socks5(t, dial(t, p.addr), wire.Bind, "127.0.0.2:21", wire.ReplyNotAllowed)
	c := dial(t, p.addr)
	r := socks5(t, c, wire.Bind, "0.0.0.0:0", wire.ReplySucceeded)
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(stranger, 0))}
	refused, err := d.Dial("tcp", r.Addr.String())
	if err == nil {
		defer refused.Close()
		_, err = refused.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a peer that is refused: %v, want a reset", err)
	}
	peer := dial(t, r.Addr.String())
	if second := reply5(t, c); second.Reply != wire.ReplySucceeded || second.Addr.AddrPort() != addrPort(peer.LocalAddr()) {
		t.Errorf("second reply %+v", second)
	}
}
