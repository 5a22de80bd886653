package daemon

import (
	"net"
	"net/netip"
	"testing"
)

func TestLAN(t *testing.T) {
	var l lan
	for _, s := range []string{"10.1.2.3", "100.64.0.1", "169.254.1.1", "127.0.0.1", "0.0.0.0", "224.0.0.251",
		"fd00::1", "fe80::1", "ff02::fb", "::1", "::"} {
		if !l.contains(netip.MustParseAddr(s)) {
			t.Errorf("%s is not of a LAN", s)
		}
	}
	for _, s := range []string{"203.0.113.1", "8.8.8.8", "2001:db8::1"} {
		if l.contains(netip.MustParseAddr(s)) {
			t.Errorf("%s is of a LAN", s)
		}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs { // whatever they are: this host's own
		if p := netip.MustParsePrefix(a.String()); !l.contains(p.Addr()) || p.Bits() > 0 && !l.contains(p.Masked().Addr()) {
			t.Errorf("%s, of this host, is not of a LAN", p)
		}
	}
}
