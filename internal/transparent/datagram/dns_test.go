package datagram_test

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"testing"

	"netstackd/internal/transparent/datagram"
	"netstackd/internal/transparent/intercept"
)

// dnsQuery is the header of a standard query with one question, and a number.
func dnsQuery(i byte) []byte { return []byte{0, i, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, i, i} }

// Queries to port 53 of any address go to the nameserver, whose answers come
// from the address that was asked; anything else to that port is carried on.
func TestDNSPackets(t *testing.T) {
	eachFamily(t, func(t *testing.T, app netip.AddrPort, host string) {
		l := newFakeLink(true, true, 1500)
		d := intercept.NewDNS(l, nil)
		dialed := &hostDialer{}
		r := newRig(t, rigConfig{link: l, dialer: dialed, udp: datagram.UDPConfig{Inline: true, DNS: d}})
		packets := d.Packets()
		asked := netip.AddrPortFrom(netip.MustParseAddr(host), 53)
		train := bytes.Join([][]byte{dnsQuery(2), dnsQuery(3), dnsQuery(4)}, nil)
		r.send(appPacket{src: app, dst: asked, payload: dnsQuery(1)},
			appPacket{src: app, dst: asked, payload: train, seg: len(dnsQuery(0))})
		buf := make([]byte, 4096)
		for i := range byte(4) {
			n, from, err := packets.ReadFrom(buf)
			if err != nil || !bytes.Equal(buf[:n], dnsQuery(i+1)) {
				t.Fatalf("query %d: %x, %v", i+1, buf[:n], err)
			}
			a := from.(*intercept.Addr)
			if a.AddrPort() != app || a.Asked() != asked {
				t.Fatalf("query %d is of %v to %v", i+1, a.AddrPort(), a.Asked())
			}
			answer := bytes.Repeat([]byte{i}, 3000) // longer than the MTU
			if _, err := packets.WriteTo(answer, from); err != nil {
				t.Fatal(err)
			}
			if got := l.answers(t, 1)[0]; got.src != asked || got.dst != app || !bytes.Equal(got.payload, answer) {
				t.Fatalf("answer %d: %v to %v, %d bytes", i, got.src, got.dst, len(got.payload))
			}
		}
		if n := dialed.opened(); n != 0 {
			t.Errorf("%d sockets opened for queries", n)
		}
		r.send(appPacket{src: app, dst: asked, payload: []byte("a tunnel's datagram, not a query")})
		if n := dialed.opened(); n != 1 {
			t.Errorf("%d sockets opened for what is no query, want 1", n)
		}
		packets.Close()
		if _, _, err := packets.ReadFrom(buf); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// More queries than the nameserver reads are dropped, and hold nothing up.
func TestDNSPacketsFull(t *testing.T) {
	d := intercept.NewDNS(newFakeLink(true, true, 1500), nil)
	r := newRig(t, rigConfig{udp: datagram.UDPConfig{Inline: true, DNS: d}})
	for range 2000 {
		r.send(appPacket{src: families[0].app, dst: netip.MustParseAddrPort("192.0.2.1:53"), payload: dnsQuery(1)})
	}
	if n := d.Dropped(); n == 0 || n >= 2000 {
		t.Errorf("%d of 2000 dropped", n)
	}
}
