//go:build linux

package netcfg_test

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"netstackd/internal/netcfg"
	"netstackd/internal/testnet"
)

// far and near are the destinations of both families.
var (
	far  = []string{farAddr4, farAddr6}
	near = []string{peerAddr4, peerAddr6}
)

func TestIntegrationCaptureDefault(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	tun := openTUN(t, tunName)
	// The user's own routes, more specific than any of ours.
	run(t, "ip route add 203.0.113.0/24 via 10.0.0.2")
	run(t, "ip route add 203.0.113.7/32 dev eth0")
	run(t, "ip -6 route add 2001:db8:ff::7/128 via fd00:1::2")
	before := hostState(t)
	cfg := testConfig()
	cfg.Routes = netcfg.DefaultRoutes()
	h := open(t, cfg)
	peer := listenPeer(t, 5000)

	for _, dst := range far {
		send(t, dst, 5000, "captured", nil)
		if p := tun.expect(t, dst, 5000); !h.IsLocal(p.src) {
			t.Errorf("captured with source %s", p.src)
		}
		send(t, dst, 5000, "marked "+dst, func(fd int) error {
			return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(h.Mark()))
		})
		peer.expect(t, "marked "+dst)
		send(t, dst, 5000, "bound "+dst, func(fd int) error { return unix.BindToDevice(fd, "eth0") })
		peer.expect(t, "bound "+dst)
	}
	for _, dst := range near {
		send(t, dst, 5000, "connected "+dst, nil)
		if from := peer.expect(t, "connected "+dst); from.Addr() == netip.MustParseAddr("198.18.0.1") {
			t.Errorf("%s is reached from %s", dst, from)
		}
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	for _, dst := range far {
		send(t, dst, 5000, "after "+dst, nil)
		peer.expect(t, "after "+dst)
	}
	sameState(t, before, hostState(t))
}
