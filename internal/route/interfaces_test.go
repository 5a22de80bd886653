package route_test

import (
	"net"
	"net/netip"
	"testing"

	"netstackd/internal/route"
)

func TestInterfacesLAN(t *testing.T) {
	var i route.Interfaces
	for _, s := range []string{"10.1.2.3", "100.64.0.1", "169.254.1.1", "127.0.0.1", "0.0.0.0", "224.0.0.251",
		"fd00::1", "fe80::1", "ff02::fb", "::1", "::"} {
		if !i.LAN(netip.MustParseAddr(s)) {
			t.Errorf("%s is not of a LAN", s)
		}
	}
	for _, s := range []string{"203.0.113.1", "8.8.8.8", "2001:db8::1"} {
		if i.LAN(netip.MustParseAddr(s)) {
			t.Errorf("%s is of a LAN", s)
		}
		if i.Has(netip.MustParseAddr(s)) {
			t.Errorf("%s is this host's", s)
		}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs { // of this host, whatever they are
		p := netip.MustParsePrefix(a.String())
		if !i.LAN(p.Addr()) || p.Bits() > 0 && !i.LAN(p.Masked().Addr()) {
			t.Errorf("%s, of this host, is not of a LAN", p)
		}
		if !i.Has(p.Addr()) {
			t.Errorf("%s is not this host's", p)
		}
	}
}
