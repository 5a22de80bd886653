package daemon

import (
	"net/netip"
	"testing"

	"netstackd/internal/route"
)

// Which UDP source ports are taken on this host.
func TestKeepsPort(t *testing.T) {
	own := netip.MustParseAddr("10.0.0.1")
	sandbox := netip.MustParsePrefix("10.0.2.0/24")
	e := &engine{routes: route.New(route.Config{
		Local:   func(a netip.Addr) bool { return a == own || sandbox.Contains(a) },
		Sandbox: []netip.Prefix{sandbox},
	})}
	for src, want := range map[string]bool{
		"10.0.0.7:4500":  true,
		"10.0.0.7:1024":  true,
		"10.0.0.7:500":   true,
		"10.0.0.7:123":   false,
		"10.0.0.7:53":    false,
		"10.0.0.1:4500":  false, // the application has it
		"127.0.0.1:4500": false,
		"10.0.2.5:4500":  true,
		"10.0.2.5:67":    false,
	} {
		if got := e.keepsPort(netip.MustParseAddrPort(src)); got != want {
			t.Errorf("%s: %v, want %v", src, got, want)
		}
	}
}
