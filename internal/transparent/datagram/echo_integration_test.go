package datagram_test

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"netstackd/internal/epoll"
	"netstackd/internal/flow"
	"netstackd/internal/hostnet"
	"netstackd/internal/testnet"
	"netstackd/internal/transparent/datagram"
)

// echoRig is an Echo between a fake TUN and host A.
type echoRig struct {
	link *fakeLink
	echo *datagram.Echo
	raw  bool
}

func newEchoRig(t *testing.T, h *testnet.Host, l *fakeLink, raw bool) *echoRig {
	t.Helper()
	group := "0 2147483647"
	if raw {
		group = "1 0"
	}
	h.Run(t, "sysctl", "-qw", "net.ipv4.ping_group_range="+group)
	d := hostnet.New(hostnet.Config{})
	r := &echoRig{link: l}
	listen := func(ctx context.Context, _ *flow.Meta, network string) (c net.PacketConn, raw bool, err error) {
		err = h.Do(func() error {
			p, err := d.ListenPing(ctx, network)
			if err == nil {
				c, raw, r.raw = p.PacketConn, p.Raw, p.Raw
			}
			return err
		})
		return c, raw, err
	}
	loop, err := epoll.New(2)
	if err != nil {
		t.Fatal(err)
	}
	flows := flow.NewRegistry(flow.Config{})
	router := []netip.Addr{netip.MustParseAddr("198.18.0.2"), netip.MustParseAddr("fd19:8::2")}
	r.echo = datagram.NewEcho(l, listen, loop, flows, datagram.EchoConfig{Router: router})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = r.echo.Serve(ctx) })
	wg.Go(func() { _ = loop.Serve(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		if n := flows.Len(); n != 0 {
			t.Errorf("%d flows left", n)
		}
	})
	return r
}

// request is an echo request of an application.
type request struct {
	dst     netip.Addr
	id, seq uint16
	ttl     uint8
	df      bool
	payload []byte
}

func (r *echoRig) send(t *testing.T, app netip.Addr, req request) {
	t.Helper()
	typ := uint8(8)
	if !app.Is4() {
		typ = 128
	}
	p := icmpPacket(app, req.dst, typ, 0, uint32(req.id)<<16|uint32(req.seq), req.payload)
	if req.ttl != 0 {
		p.TTL = req.ttl
	}
	p.DF = req.df || !app.Is4()
	if !r.echo.HandlePacket(p) {
		t.Error("request not taken")
	}
	p.Buf.DecRef()
	r.echo.Flush()
}

// reply reads an echo reply, and puts its fragments together.
func (r *echoRig) reply(t *testing.T, app netip.Addr, req request) {
	t.Helper()
	var msg []byte
	for {
		w := r.link.next(t)
		ip := parseIP(t, w.data)
		if ip.src != req.dst || ip.dst != app || len(msg) != ip.offset || len(w.data) > int(r.link.mtu) {
			t.Fatalf("packet from %v to %v, offset %d", ip.src, ip.dst, ip.offset)
		}
		msg = append(msg, ip.payload...)
		if ip.more {
			continue
		}
		var sum uint16
		typ := uint8(0)
		if !app.Is4() {
			sum = header.PseudoHeaderChecksum(58, tcpAddr(ip.src), tcpAddr(ip.dst), uint16(len(msg)))
			typ = 129
		}
		if checksum.Checksum(msg, sum) != 0xffff {
			t.Error("wrong checksum")
		}
		if msg[0] != typ || header.ICMPv4(msg).Ident() != req.id || header.ICMPv4(msg).Sequence() != req.seq || !bytes.Equal(msg[8:], req.payload) {
			t.Errorf("reply %x to %+v", msg[:min(64, len(msg))], req)
		}
		if ip.ttl != 63 {
			t.Errorf("TTL %d, want B's 64 less one", ip.ttl)
		}
		return
	}
}

func TestIntegrationEcho(t *testing.T) {
	n := beyond(t)
	for _, kind := range []struct {
		name string
		raw  bool
	}{{"ping", false}, {"raw", true}} {
		t.Run(kind.name, func(t *testing.T) {
			for i, f := range testnet.Families() {
				t.Run(f.String(), func(t *testing.T) {
					r := newEchoRig(t, n.A, newFakeLink(true, true, 1500), kind.raw)
					testEcho(t, n, r, f, families[i].app.Addr())
					if r.raw != kind.raw {
						t.Errorf("raw is %v", r.raw)
					}
				})
			}
		})
	}
}

func testEcho(t *testing.T, n *testnet.Network, r *echoRig, f testnet.Family, app netip.Addr) {
	for i, size := range []int{0, 1, 56, 1400, 4000, 60000} {
		req := request{dst: n.B.Addr(f), id: 77, seq: uint16(i), payload: random(size)}
		r.send(t, app, req)
		if !app.Is4() && size > 1452 { // its kernel is told the path's MTU
			if e := parseICMPError(t, r.link.next(t).data); e.typ != 2 || e.mtu != 1500 {
				t.Errorf("error %+v", e)
			}
		}
		r.reply(t, app, req)
	}
	// Another session, with the same destinations and sequence numbers.
	for _, dst := range []netip.Addr{testnet.Dest(f, 1), testnet.Dest(f, 2), n.B.Addr(f)} {
		req := request{dst: dst, id: 78, seq: 1, payload: random(100)}
		r.send(t, app, req)
		r.reply(t, app, req)
	}
	if st := r.echo.Stats(); st.Sessions != 2 || st.Up != 9 || st.Down != 9 {
		t.Errorf("stats %+v", st)
	}
	errorTypes := [2]uint8{11, 3}
	narrow, prohibited := netip.MustParseAddr("10.79.0.9"), netip.MustParseAddr("10.81.0.9")
	if f == testnet.IPv6 {
		errorTypes = [2]uint8{3, 1}
		narrow, prohibited = netip.MustParseAddr("fd79::9"), netip.MustParseAddr("fd81::9")
	}
	r.refused(t, app, request{dst: narrow, id: 77, seq: 9, ttl: 2, payload: random(100)}, errorTypes[0], n.B.Addr(f))
	r.refused(t, app, request{dst: prohibited, id: 77, seq: 10, payload: random(100)}, errorTypes[1], n.B.Addr(f))
	router := netip.MustParseAddr("198.18.0.2")
	if f == testnet.IPv6 {
		router = netip.MustParseAddr("fd19:8::2")
	}
	r.refused(t, app, request{dst: narrow, id: 77, seq: 9, ttl: 1, payload: random(100)}, errorTypes[0], router)
	req := request{dst: n.B.Addr(f), id: 77, seq: 11, payload: random(100)}
	r.send(t, app, req)
	r.reply(t, app, req)
}

// refused sends a request until the ICMP error about it comes from that host.
func (r *echoRig) refused(t *testing.T, app netip.Addr, req request, typ uint8, from netip.Addr) {
	t.Helper()
	for range 5 {
		r.send(t, app, req)
		select {
		case w := <-r.link.packets:
			e := parseICMPError(t, w.data)
			inner := header.ICMPv4(e.quoted[header.IPv4MinimumSize:])
			if !app.Is4() {
				inner = header.ICMPv4(e.quoted[header.IPv6MinimumSize:])
			}
			if e.typ != typ || e.from != from || e.dst.Addr() != req.dst || e.src.Addr() != app ||
				inner.Ident() != req.id || inner.Sequence() != req.seq {
				t.Errorf("error %d from %v about %v", e.typ, e.from, e.dst)
			}
			return
		case <-time.After(1100 * time.Millisecond):
		}
	}
	t.Error("no error came")
}

// TestEchoForeign: what is not an echo request, or is broken, gets no answer.
func TestEchoForeign(t *testing.T) {
	l := newFakeLink(true, true, 1500)
	loop, err := epoll.New(1)
	if err != nil {
		t.Fatal(err)
	}
	defer loop.Close()
	listen := func(context.Context, *flow.Meta, string) (net.PacketConn, bool, error) {
		t.Error("a socket was opened")
		return nil, false, net.ErrClosed
	}
	e := datagram.NewEcho(l, listen, loop, flow.NewRegistry(flow.Config{}), datagram.EchoConfig{})
	app, dst := families[0].app.Addr(), netip.MustParseAddr("192.0.2.1")
	for _, typ := range []uint8{0, 5, 13, 17} {
		p := icmpPacket(app, dst, typ, 0, 0, nil)
		e.HandlePacket(p)
		p.Buf.DecRef()
	}
	p := icmpPacket(app, dst, 8, 0, 0, []byte("x"))
	p.Transport[2]++
	e.HandlePacket(p)
	p.Buf.DecRef()
	e.Flush()
	if st := e.Stats(); st.DroppedInvalid != 5 || len(l.packets) != 0 {
		t.Errorf("stats %+v, %d packets", st, len(l.packets))
	}
}

// Echo requests from many addresses of other hosts open a bounded number of
// sockets. Those of this host are not limited.
func TestRemoteOpens(t *testing.T) {
	loop, err := epoll.New(1)
	if err != nil {
		t.Fatal(err)
	}
	defer loop.Close()
	remote := netip.MustParsePrefix("10.0.0.0/8")
	opened := map[bool]int{} // by remote
	listen := func(_ context.Context, m *flow.Meta, _ string) (net.PacketConn, bool, error) {
		opened[remote.Contains(m.Source.Addr())]++
		return nil, false, net.ErrClosed
	}
	flows := flow.NewRegistry(flow.Config{Remote: remote.Contains})
	e := datagram.NewEcho(newFakeLink(true, true, 1500), listen, loop, flows, datagram.EchoConfig{})
	const flood = 20_000
	start := time.Now()
	for i := range flood {
		for _, net := range []byte{10, 198} {
			p := icmpPacket(netip.AddrFrom4([4]byte{net, 1, byte(i >> 8), byte(i)}), netip.MustParseAddr("192.0.2.1"), 8, 0, 0, nil)
			e.HandlePacket(p)
			p.Buf.DecRef()
		}
	}
	most := 101 + int(1000*time.Since(start).Seconds())
	if n := opened[true]; n < 100 || n > most {
		t.Errorf("%d sockets for other hosts, want 100 to %d", n, most)
	}
	if n := opened[false]; n != flood {
		t.Errorf("%d sockets for this host, want %d", n, flood)
	}
}
