package daemon

import (
	"net/netip"
	"testing"

	"netstackd/internal/forward"
	"netstackd/internal/netstack"
)

// Every packet passes the gate: judging one must not cost memory.
func TestGateDoesNotAllocate(t *testing.T) {
	var cfg Config
	cfg.Exec.Allow = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	cfg.Gateway = true
	everybody := func(netip.Addr) bool { return true }
	g := &gate{Packets: &forward.Packets{}, carriage: carriage{allow: everybody, refuse: policyOf(cfg, everybody)}}
	for _, p := range []*netstack.Packet{
		{Proto: netstack.ProtoUDP, Src: netip.MustParseAddr("198.18.0.1"), Dst: netip.MustParseAddr("192.0.2.1")},
		{Proto: netstack.ProtoUDP, Src: netip.MustParseAddr("fd19:8::1"), Dst: netip.MustParseAddr("2001:db8::1")},
	} {
		if n := testing.AllocsPerRun(1000, func() { g.HandlePacket(p) }); n != 0 {
			t.Errorf("a packet to %s costs %v allocations", p.Dst, n)
		}
	}
}
