package hostnet_test

import (
	"net"
	"net/netip"
	"testing"

	"netstackd/internal/hostnet"
)

// A listener on 0.0.0.0 is for IPv4 only, and one on :: for both families.
func TestListenLocalFamily(t *testing.T) {
	for _, c := range []struct {
		address string
		is4     bool
	}{{"0.0.0.0:0", true}, {"127.0.0.1:0", true}, {"[::]:0", false}} {
		l, err := hostnet.ListenLocal(t.Context(), c.address, net.KeepAliveConfig{})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		u, err := hostnet.ListenLocalPacket(t.Context(), c.address)
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		for _, at := range []net.Addr{l.Addr(), u.LocalAddr()} {
			if a := netip.MustParseAddrPort(at.String()); a.Addr().Is4() != c.is4 {
				t.Errorf("%s on %s listens on %s", at.Network(), c.address, at)
			}
		}
		c6, err := net.Dial("tcp", net.JoinHostPort("::1", port(t, l.Addr())))
		if err == nil {
			c6.Close()
		}
		if (err != nil) != c.is4 {
			t.Errorf("%s, by IPv6: %v", c.address, err)
		}
	}
}

func port(t *testing.T, a net.Addr) string {
	t.Helper()
	_, port, err := net.SplitHostPort(a.String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
