package datagram_test

import (
	"net/netip"
	"testing"

	"netstackd/internal/ippkt"
	"netstackd/internal/netstack"
	"netstackd/internal/route"
	"netstackd/internal/transparent/datagram"
)

// Every packet is judged: that must cost no memory, and answer what is refused.
func TestPacketsRoutes(t *testing.T) {
	var refused int
	h := datagram.Packets{
		Routes: route.New(route.Config{
			Local: func(netip.Addr) bool { return true },
			Allow: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/64")},
		}),
		Refuse: func(from netip.Addr, quote []byte, why ippkt.Unreachable) {
			refused++
			if why != ippkt.AdminProhibited || len(quote) != 8 {
				t.Errorf("%s answers with %v, and quotes %d bytes", from, why, len(quote))
			}
		},
	}
	for _, c := range []struct {
		dst     string
		proto   uint8
		kind    byte // of ICMP
		answers int
	}{
		{"192.0.2.1", ippkt.ProtoUDP, 0, 0},
		{"2001:db8::1", ippkt.ProtoUDP, 0, 0},
		{"198.51.100.1", ippkt.ProtoUDP, 0, 1},
		{"198.51.100.1", ippkt.ProtoICMP, 3, 0}, // an error, which no error answers
		{"192.0.2.1", ippkt.ProtoICMP, 8, 1},    // a ping, which nothing carries on
	} {
		src := netip.MustParseAddr("198.18.0.1")
		if c.dst == "2001:db8::1" {
			src = netip.MustParseAddr("fd19:8::1")
		}
		p := &netstack.Packet{Proto: c.proto, Src: src, Dst: netip.MustParseAddr(c.dst), Transport: []byte{c.kind, 0, 0, 53, 0, 8, 0, 0}}
		refused = 0
		took := h.HandlePacket(p)
		if refused != c.answers {
			t.Errorf("%+v: answered %d times", c, refused)
		}
		if c.answers == 0 && c.proto == ippkt.ProtoUDP {
			if took { // there is no UDP here to take it
				t.Errorf("%+v: taken", c)
			}
			if n := testing.AllocsPerRun(1000, func() { h.HandlePacket(p) }); n != 0 {
				t.Errorf("%+v: a packet costs %v allocations", c, n)
			}
		}
	}
}
