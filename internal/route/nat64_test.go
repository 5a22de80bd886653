package route_test

import (
	"net/netip"
	"slices"
	"testing"

	"netstackd/internal/flow"
	"netstackd/internal/route"
)

// The examples are those of RFC 6052 §2.4, with the addresses of RFC 7050.
func TestNAT64Prefixes(t *testing.T) {
	for _, c := range []struct{ addr, prefix string }{
		{"2001:db8:c000:aa::", "2001:db8::/32"},
		{"2001:db8:1c0:0:aa::", "2001:db8:100::/40"},
		{"2001:db8:122:c000:0:aa00::", "2001:db8:122::/48"},
		{"2001:db8:122:3c0:0:aa::", "2001:db8:122:300::/56"},
		{"2001:db8:122:344:c0:0:aa00::", "2001:db8:122:344::/64"},
		{"2001:db8:122:344::192.0.0.170", "2001:db8:122:344::/96"},
		{"2001:db8:122:344::192.0.0.171", "2001:db8:122:344::/96"},
		{"64:ff9b:1:fffe::192.0.0.170", "64:ff9b:1:fffe::/96"},
		{"2001:db8::1", ""},
		{"::ffff:192.0.0.170", ""},
		{"192.0.0.170", ""},
	} {
		var want []netip.Prefix
		if c.prefix != "" {
			want = append(want, netip.MustParsePrefix(c.prefix))
		}
		a := netip.MustParseAddr(c.addr)
		if got := route.NAT64Prefixes([]netip.Addr{a, a}); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", c.addr, got, want)
		}
	}
}

// A discovered prefix has its addresses judged by the IPv4 addresses in them.
func TestDecideNAT64(t *testing.T) {
	table := route.New(route.Config{Local: isLocal, BlockLAN: true})
	allowed := func(dst string) bool {
		m := meta(flow.SOCKSHost, "tcp", ours, dst)
		return table.Decide(&m).Allowed()
	}
	if !allowed("[2001:db8:64::10.1.2.3]:80") || allowed("[64:ff9b:1:fffe:1:a01:203:0]:80") {
		t.Error("before a prefix is known")
	}
	table.SetNAT64([]netip.Prefix{netip.MustParsePrefix("2001:db8:64::/96"), netip.MustParsePrefix("2001:db8:122:344::/64"),
		netip.MustParsePrefix("64:ff9b:1::/48")})
	for dst, want := range map[string]bool{
		"[2001:db8:64::10.1.2.3]:80":        false,
		"[2001:db8:64::203.0.113.1]:80":     true,
		"[2001:db8:122:344:a:102:300:0]:80": false, // 10.1.2.3
		"[2001:db8:122:344:cb:71:100:0]:80": true,  // 203.0.113.1
		"[64:ff9b:1:cb00:71:100::]:80":      true,  // 203.0.113.1
		"[64:ff9b:1:a01:2:300::]:80":        false,
		"[64:ff9b::10.1.2.3]:80":            false,
		"[2001:db8:65::10.1.2.3]:80":        true,
	} {
		if got := allowed(dst); got != want {
			t.Errorf("%s: allowed %v, want %v", dst, got, want)
		}
	}
}
