package socks_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"netstackd/socks"
	"netstackd/socks/wire"
)

// udpEcho answers each datagram with itself, and says on the channel from
// where it came.
func udpEcho(t testing.TB, address string) (*net.UDPConn, netip.AddrPort) {
	t.Helper()
	c := listenUDP(t, address)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 65536)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			c.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	return c, c.LocalAddr().(*net.UDPAddr).AddrPort()
}

func listenUDP(t testing.TB, address string) *net.UDPConn {
	t.Helper()
	pc, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	return pc.(*net.UDPConn)
}

// udpClient is one UDP association made by hand.
type udpClient struct {
	*testing.T
	ctl *net.TCPConn
	udp *net.UDPConn
	bnd netip.AddrPort
}

func associate(t *testing.T, p *proxy) *udpClient {
	t.Helper()
	ctl := dial(t, p.addr)
	r := socks5(t, ctl, wire.Associate, "0.0.0.0:0", wire.ReplySucceeded)
	return &udpClient{t, ctl, listenUDP(t, "127.0.0.1:0"), r.Addr.AddrPort()}
}

func datagram(t testing.TB, dst string, payload []byte) []byte {
	t.Helper()
	a, err := wire.ParseHostPort(dst)
	if err != nil {
		t.Fatal(err)
	}
	b, err := wire.AppendDatagramHeader(nil, a)
	if err != nil {
		t.Fatal(err)
	}
	return append(b, payload...)
}

func (c *udpClient) send(dst string, payload []byte) {
	c.Helper()
	c.raw(datagram(c, dst, payload))
}

func (c *udpClient) raw(b []byte) {
	c.Helper()
	if _, err := c.udp.WriteToUDPAddrPort(b, c.bnd); err != nil {
		c.Fatal(err)
	}
}

func (c *udpClient) want(from netip.AddrPort, payload []byte) {
	c.Helper()
	b := make([]byte, 65536)
	c.udp.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, err := c.udp.Read(b)
	if err != nil {
		c.Fatal(err)
	}
	a, got, err := wire.ParseDatagram(b[:n])
	if err != nil || a.IsName() || a.AddrPort() != from || !bytes.Equal(got, payload) {
		c.Fatalf("got %d bytes %.20q from %v, %v; want %d bytes %.20q from %v", len(got), got, a, err, len(payload), payload, from)
	}
}

func TestAssociate(t *testing.T) {
	_, e4 := udpEcho(t, "127.0.0.1:0")
	_, e6 := udpEcho(t, "[::1]:0")
	named := "echo.test:" + port(e4.String())
	p := start(t, local, socks.Config{Resolver: local})
	c := associate(t, p)
	c.send(e4.String(), []byte("one"))
	c.want(e4, []byte("one"))
	c.send(e6.String(), []byte("two"))
	c.want(e6, []byte("two"))
	for _, text := range []string{"three", "", "four"} { // the first waits for the lookup
		c.send(named, []byte(text))
	}
	for _, text := range []string{"three", "", "four"} {
		c.want(e4, []byte(text))
	}

	// The most that fits a datagram with its header.
	big := bytes.Repeat([]byte("x"), 65507-10)
	c.send(e4.String(), big)
	c.want(e4, big)

	// None of these ends the association, or reaches anybody.
	for _, dst := range []string{closedPort(t), "240.0.0.1:1", "nowhere.test:1", "127.0.0.1:0", "[2001:db8::1]:1"} {
		c.send(dst, []byte("lost"))
		c.send(dst, []byte("lost"))
	}
	fragment := datagram(t, e4.String(), []byte("part"))
	fragment[2] = 1
	c.raw(fragment)
	fragment[2] = 0x81
	c.raw(fragment)
	reserved := datagram(t, e4.String(), []byte("odd"))
	reserved[0] = 1
	c.raw(reserved)
	for n := range 8 {
		c.raw(datagram(t, e4.String(), nil)[:n])
	}
	c.raw([]byte("\x00\x00\x00\x09nonsense"))
	c.raw([]byte("\x00\x00\x00\x03\x00\x00\x01"))
	c.send(e4.String(), []byte("still here"))
	c.want(e4, []byte("still here"))

	eventually(t, "all answers are counted", func() bool { return p.Stats().DatagramsOut == 7 })
	if s := p.Stats(); s.Associated != 1 || s.DatagramsDropped < 15 {
		t.Errorf("stats %+v", s)
	}
	infos := p.flows.Flows()
	if len(infos) != 1 || infos[0].Meta.Network != "udp" || infos[0].Down != int64(len("onetwothreefourstill here")+len(big)) {
		t.Errorf("flows %+v", infos)
	}
	c.ctl.Close()
	eventually(t, "the flow ends", func() bool { return p.flows.Len() == 0 })
}

// TestAssociateForeign has others than the client try the relay's port.
func TestAssociateForeign(t *testing.T) {
	target, addr := udpEcho(t, "127.0.0.1:0")
	p := start(t, local, socks.Config{})
	c := associate(t, p)
	foreign := func(address string) *net.UDPConn {
		u := listenUDP(t, address)
		u.WriteToUDPAddrPort(datagram(t, addr.String(), []byte("hijack")), c.bnd)
		return u
	}
	thief := foreign("127.0.0.2:0") // first, before any port is pinned
	eventually(t, "dropped", func() bool { return p.Stats().DatagramsDropped == 1 })
	c.send(addr.String(), []byte("mine"))
	c.want(addr, []byte("mine"))
	sibling := foreign("127.0.0.1:0") // the client's host, another port
	eventually(t, "dropped", func() bool { return p.Stats().DatagramsDropped == 2 })
	if n := p.Stats().DatagramsIn; n != 1 {
		t.Errorf("%d datagrams went out, want 1", n)
	}

	// Endpoint-independent: a third party that knows the mapping is let in.
	c.send(addr.String(), []byte("where"))
	c.want(addr, []byte("where"))
	var mapping netip.AddrPort
	_ = target
	probe := listenUDP(t, "127.0.0.1:0")
	c.send(probe.LocalAddr().String(), []byte("hello"))
	probe.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, mapping, err := probe.ReadFromUDPAddrPort(make([]byte, 10))
	if err != nil {
		t.Fatal(err)
	}
	third := listenUDP(t, "127.0.0.1:0")
	third.WriteToUDPAddrPort([]byte("unasked"), mapping)
	c.want(third.LocalAddr().(*net.UDPAddr).AddrPort(), []byte("unasked"))

	for _, u := range []*net.UDPConn{thief, sibling} {
		u.SetReadDeadline(time.Now())
		if n, err := u.Read(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a foreign socket got %d bytes, %v", n, err)
		}
	}
}

// TestAssociateBound connects through a wildcard listener: the relay must be
// where the client came, in both families.
func TestAssociateBound(t *testing.T) {
	_, addr := udpEcho(t, "127.0.0.1:0")
	p := startOn(t, "[::]:0", local, socks.Config{})
	for _, host := range []string{"127.0.0.1", "127.0.0.3", "::1"} {
		ctl := dial(t, net.JoinHostPort(host, port(p.addr)))
		r := socks5(t, ctl, wire.Associate, "0.0.0.0:0", wire.ReplySucceeded)
		if r.Addr.IP != netip.MustParseAddr(host) {
			t.Errorf("BND is %v, want %s", r.Addr, host)
		}
		u := listenUDP(t, net.JoinHostPort(addrPort(ctl.LocalAddr()).Addr().String(), "0"))
		c := &udpClient{t, ctl, u, r.Addr.AddrPort()}
		c.send(addr.String(), []byte(host))
		c.want(addr, []byte(host))
	}
}

func addrPort(a net.Addr) netip.AddrPort {
	ap := netip.MustParseAddrPort(a.String())
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

func TestAssociateIdle(t *testing.T) {
	p := start(t, local, socks.Config{UDPTimeout: 50 * time.Millisecond})
	c := associate(t, p)
	wantEOF(t, c.ctl)
	eventually(t, "the flow ends", func() bool { return p.flows.Len() == 0 })
}

// TestAssociateEnds ends associations from the server's side.
func TestAssociateEnds(t *testing.T) {
	t.Run("killed", func(t *testing.T) {
		p := start(t, local, socks.Config{})
		c := associate(t, p)
		p.flows.Kill(p.flows.Flows()[0].ID)
		wantEOF(t, c.ctl)
	})
	t.Run("stopped", func(t *testing.T) {
		p := start(t, local, socks.Config{})
		c := associate(t, p)
		p.stop()
		wantEOF(t, c.ctl)
	})
	t.Run("drains", func(t *testing.T) {
		_, addr := udpEcho(t, "127.0.0.1:0")
		p := start(t, local, socks.Config{DrainTimeout: time.Hour})
		c := associate(t, p)
		stopped := make(chan struct{})
		go func() { p.stop(); close(stopped) }()
		eventually(t, "the port is closed", func() bool {
			probe, err := net.Dial("tcp", p.addr)
			if err == nil {
				probe.Close()
			}
			return err != nil
		})
		c.send(addr.String(), []byte("last words"))
		c.want(addr, []byte("last words"))
		c.ctl.Close()
		<-stopped
	})
}

func TestAssociateRule(t *testing.T) {
	_, good := udpEcho(t, "127.0.0.1:0")
	_, bad := udpEcho(t, "127.0.0.2:0")
	p := start(t, local, socks.Config{Rule: refuseIf(func(r *socks.Request) bool { return r.Dest.IP == bad.Addr() })})
	c := associate(t, p)
	c.send(bad.String(), []byte("no"))
	c.send(good.String(), []byte("yes"))
	c.want(good, []byte("yes"))
	if n := p.Stats().DatagramsDropped; n != 1 {
		t.Errorf("%d dropped, want 1", n)
	}
}

// A name's datagrams go to the first of its addresses that the rule allows.
func TestAssociateRuleName(t *testing.T) {
	_, good := udpEcho(t, "127.0.0.1:0")
	bad := listenUDP(t, "127.0.0.2:"+port(good.String()))
	resolver := lookupFunc(func(string) []netip.Addr { return []netip.Addr{netip.MustParseAddr("127.0.0.2"), good.Addr()} })
	p := start(t, local, socks.Config{Resolver: resolver, Rule: refuseIf(func(r *socks.Request) bool {
		return r.Dest.IP == netip.MustParseAddr("127.0.0.2")
	})})
	c := associate(t, p)
	for _, text := range []string{"looked up", "known"} {
		c.send("two.test:"+port(good.String()), []byte(text))
		c.want(good, []byte(text))
	}
	bad.SetReadDeadline(time.Now())
	if n, err := bad.Read(make([]byte, 100)); err == nil {
		t.Errorf("%d bytes reached the address that is refused", n)
	}
}

// lookupFunc is a Resolver.
type lookupFunc func(host string) []netip.Addr

func (f lookupFunc) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	return f(host), nil
}
