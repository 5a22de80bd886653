package datagram_test

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"netstackd/internal/flow"
	"netstackd/internal/testnet"
	"netstackd/internal/transparent/datagram"
)

// netDialer opens sockets on a host of a test network.
type netDialer struct {
	host *testnet.Host
}

func (d netDialer) ListenPacket(ctx context.Context, _ *flow.Meta, network, _ string) (c net.PacketConn, err error) {
	err = d.host.Do(func() error {
		c, err = new(net.ListenConfig).ListenPacket(ctx, network, ":0")
		return err
	})
	return c, err
}

// beyond makes B a router to networks that A reaches through it:
//
//	10.79.0.0/16  fd79::/64  a link with an MTU of 1300, without a host that answers
//	10.80.0.0/16  fd80::/64  unreachable
//	10.81.0.0/16  fd81::/64  prohibited
func beyond(t *testing.T) *testnet.Network {
	n := testnet.New(t)
	n.B.Run(t, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	n.B.Run(t, "ip", "link", "add", "narrow", "mtu", "1300", "type", "veth", "peer", "name", "nobody")
	n.B.Run(t, "ip", "link", "set", "nobody", "up")
	n.B.Run(t, "ip", "link", "set", "narrow", "up")
	for _, r := range []struct{ net4, net6, b4, b6 string }{
		{"10.79.0.0/16", "fd79::/64", "dev narrow", "dev narrow"},
		{"10.80.0.0/16", "fd80::/64", "unreachable", "unreachable"},
		{"10.81.0.0/16", "fd81::/64", "prohibit", "prohibit"},
	} {
		n.A.Run(t, "ip", "route", "add", r.net4, "via", n.B.IP4.String())
		n.A.Run(t, "ip", "route", "add", r.net6, "via", n.B.IP6.String())
		if r.b4[:3] == "dev" {
			n.B.Run(t, "ip", "route", "add", r.net4, "dev", "narrow")
			n.B.Run(t, "ip", "-6", "route", "add", r.net6, "dev", "narrow")
			continue
		}
		n.B.Run(t, "ip", "route", "add", r.b4, r.net4)
		n.B.Run(t, "ip", "-6", "route", "add", r.b6, r.net6)
	}
	return n
}

// wantError is an ICMP error that the application should get.
type wantError struct {
	name      string
	dst       string
	size      int
	ttl       uint8
	typ, code uint8
	fromB     bool // from B, else from the destination
	mtu       uint32
}

var udpErrors4 = []wantError{
	{name: "ttl", dst: "10.79.0.9:7", size: 100, ttl: 2, typ: 11, fromB: true},
	{name: "unreachable", dst: "10.80.0.9:7", size: 100, typ: 3, code: 1, fromB: true},
	{name: "prohibited", dst: "10.81.0.9:7", size: 100, typ: 3, code: 13, fromB: true},
	{name: "port", dst: "10.77.0.2:9", size: 100, typ: 3, code: 3, fromB: true},
	{name: "no route", dst: "203.0.113.9:7", size: 100, typ: 3, code: 0},
	{name: "path mtu", dst: "10.79.0.9:7", size: 1400, typ: 3, code: 4, fromB: true, mtu: 1300},
	{name: "path mtu known", dst: "10.79.0.9:7", size: 1400, typ: 3, code: 4, mtu: 1300},
	{name: "link mtu", dst: "10.77.0.2:9", size: 3000, ttl: 30, typ: 3, code: 4, mtu: 1500},
	{name: "neighbor", dst: "10.77.0.77:9", size: 100, typ: 3, code: 1, fromB: false},
}

var udpErrors6 = []wantError{
	{name: "ttl", dst: "[fd79::9]:7", size: 100, ttl: 2, typ: 3, fromB: true},
	{name: "unreachable", dst: "[fd80::9]:7", size: 100, typ: 1, code: 0, fromB: true},
	{name: "prohibited", dst: "[fd81::9]:7", size: 100, typ: 1, code: 1, fromB: true},
	{name: "port", dst: "[fd77::2]:9", size: 100, typ: 1, code: 4, fromB: true},
	{name: "no route", dst: "[2001:db8::9]:7", size: 100, typ: 1, code: 0},
	{name: "path mtu", dst: "[fd79::9]:7", size: 1400, typ: 2, fromB: true, mtu: 1300},
	{name: "path mtu known", dst: "[fd79::9]:7", size: 1400, typ: 2, mtu: 1300},
	{name: "link mtu", dst: "[fd77::2]:9", size: 3000, ttl: 30, typ: 2, mtu: 1500},
	{name: "neighbor", dst: "[fd77::77]:9", size: 100, typ: 1, code: 3},
}

func TestIntegrationUDPErrors(t *testing.T) {
	n := beyond(t)
	for _, fam := range []struct {
		testnet.Family
		app  netip.AddrPort
		list []wantError
	}{{testnet.IPv4, families[0].app, udpErrors4}, {testnet.IPv6, families[1].app, udpErrors6}} {
		t.Run(fam.Family.String(), func(t *testing.T) {
			r := newRig(t, rigConfig{dialer: netDialer{n.A}, udp: datagram.UDPConfig{Inline: true}})
			for _, want := range fam.list {
				t.Run(want.name, func(t *testing.T) {
					dst := netip.MustParseAddrPort(want.dst)
					e := r.provoke(t, dst, want.typ, func() {
						r.send(appPacket{src: fam.app, dst: dst, payload: random(want.size), ttl: want.ttl})
					})
					checkError(t, n, fam.Family, want, fam.app, dst, e)
				})
			}
		})
	}
}

// provoke sends until an ICMP error about dst comes: routers send one a second.
func (r *rig) provoke(t *testing.T, dst netip.AddrPort, typ uint8, send func()) icmpError {
	t.Helper()
	for range 5 {
		send()
		for timeout := time.After(1100 * time.Millisecond); ; {
			select {
			case w := <-r.link.packets:
				if e := parseICMPError(t, w.data); e.dst == dst && e.typ == typ {
					return e
				}
				continue
			case <-timeout:
			}
			break
		}
	}
	t.Fatal("no error came")
	panic("unreachable")
}

func checkError(t *testing.T, n *testnet.Network, f testnet.Family, want wantError, app, dst netip.AddrPort, e icmpError) {
	t.Helper()
	if e.typ != want.typ || e.code != want.code || e.src != app || e.dst != dst || e.to != app.Addr() {
		e.quoted = nil
		t.Errorf("got %+v", e)
	}
	if want.mtu != 0 && e.mtu != want.mtu {
		t.Errorf("MTU %d, want %d", e.mtu, want.mtu)
	}
	from := dst.Addr()
	if want.fromB {
		from = n.B.Addr(f)
	}
	if want.name != "neighbor" && e.from != from {
		t.Errorf("from %v, want %v", e.from, from)
	}
}

// TestIntegrationUDPLinkMTU: what exceeds the outbound interface's MTU is told,
// and carried on in fragments all the same.
func TestIntegrationUDPLinkMTU(t *testing.T) {
	n := testnet.New(t)
	for i, f := range testnet.Families() {
		t.Run(f.String(), func(t *testing.T) {
			srv := &server{UDPConn: n.B.ListenPacket(t, "udp", netip.AddrPortFrom(n.B.Addr(f), 0).String())}
			dst := srv.LocalAddr().(*net.UDPAddr).AddrPort()
			r := newRig(t, rigConfig{dialer: netDialer{n.A}, udp: datagram.UDPConfig{Inline: true}})
			app := families[i].app
			msg := random(60000)
			r.send(appPacket{src: app, dst: dst, payload: msg})
			if got, _ := srv.next(t); string(got) != string(msg) {
				t.Errorf("got %d bytes", len(got))
			}
			// An error about an echo reply, which reaches no socket.
			if e := parseICMPError(t, r.link.next(t).data); e.mtu != 1500 || e.dst.Addr() != dst.Addr() || e.src.Port() != uint16(replyType(app))<<8 {
				e.quoted = nil
				t.Errorf("error %+v", e)
			}
			r.send(appPacket{src: app, dst: dst, payload: msg[:40000], seg: 2000})
			for range 20 {
				if got, _ := srv.next(t); len(got) != 2000 {
					t.Errorf("got %d bytes", len(got))
				}
			}
		})
	}
}

func replyType(app netip.AddrPort) uint8 {
	if app.Addr().Is4() {
		return 0
	}
	return 129
}
