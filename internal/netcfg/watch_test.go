//go:build linux

package netcfg_test

import (
	"context"
	"errors"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"netstackd/internal/netcfg"
	"netstackd/internal/testnet"
)

// watch runs h.Watch until the test ends and returns where its error will be.
func watch(t *testing.T, h *netcfg.Host) <-chan error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		result <- h.Watch(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return result
}

func TestIntegrationWatch(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	run(t, "ip link add eth1 type veth peer name eth1 netns nsnc-peer")
	run(t, "ip -n nsnc-peer link set eth1 up")
	tun := openTUN(t, tunName)
	cfg := testConfig()
	cfg.Routes = netcfg.DefaultRoutes()
	h := open(t, cfg)
	result := watch(t, h)
	leaves := func(dst, dev string) func() bool {
		return func() bool { // an error means that there is no way at all, for now
			out, _ := exec.Command("ip", "route", "get", dst).Output()
			return strings.Contains(string(out), "dev "+dev)
		}
	}

	// A new subnet is left alone and its address known.
	run(t, "ip link set eth1 up")
	run(t, "ip addr add 172.20.0.1/24 dev eth1")
	run(t, "ip addr add fd00:20::1/64 dev eth1 nodad")
	eventually(t, "new address is local", func() bool { return h.IsLocal(netip.MustParseAddr("172.20.0.1")) })
	eventually(t, "new subnet is direct", leaves("172.20.0.9", "eth1"))
	eventually(t, "new IPv6 subnet is direct", leaves("fd00:20::9", "eth1"))
	run(t, "ip link set eth1 down")
	eventually(t, "its subnet is captured once it is down", leaves("172.20.0.9", tunName))
	run(t, "ip addr flush dev eth1")
	eventually(t, "old address is not local", func() bool { return !h.IsLocal(netip.MustParseAddr("172.20.0.1")) })

	// The default route moves away and comes back; far stays captured, and the
	// marked way follows.
	run(t, "ip route del default")
	run(t, "ip route add default via 10.0.0.2 metric 50")
	send(t, farAddr4, 5000, "captured", nil)
	tun.expect(t, farAddr4, 5000)
	peer := listenPeer(t, 5000)
	run(t, "ip link set eth0 down")
	eventually(t, "connected subnet went", leaves("10.0.0.2", tunName))
	run(t, "ip link set eth0 up")
	if run(t, "ip route replace default via 10.0.0.2"); strings.Contains(run(t, "ip route show default"), tunName) {
		t.Error("the TUN became the way to the default gateway")
	}
	run(t, "ip addr replace fd00:1::1/64 dev eth0 nodad")
	run(t, "ip -6 route replace default via fd00:1::2")
	eventually(t, "connected subnet is back", leaves("10.0.0.2", "eth0"))
	eventually(t, "connected IPv6 subnet is back", leaves("fd00:1::2", "eth0"))
	send(t, peerAddr4, 5000, "direct", nil)
	peer.expect(t, "direct")

	// What others removed of ours comes back.
	run(t, "ip rule flush")
	run(t, "ip rule add pref 32766 lookup main")
	run(t, "ip route flush table 19808")
	eventually(t, "captured again", leaves(farAddr4, tunName))
	eventually(t, "bound sockets are direct again", func() bool {
		return strings.Contains(run(t, "ip route get "+farAddr4+" from "+hostAddr4), "dev eth0")
	})
	run(t, "ip link set "+tunName+" down")
	eventually(t, "not captured while the TUN is down", leaves(farAddr6, "eth0"))
	run(t, "ip link set "+tunName+" up")
	eventually(t, "captured again after down and up", leaves(farAddr4, tunName))
	eventually(t, "IPv6 too", leaves(farAddr6, tunName))
	eventually(t, "address is back", leaves("fd19:8::2", tunName))
	eventually(t, "its neighbors are permanent again", func() bool {
		out := run(t, "ip neigh show nud permanent dev "+tunName) + run(t, "ip -6 neigh show nud permanent dev "+tunName)
		return strings.Contains(out, "0.0.0.0 ") && strings.Contains(out, "fd19:8::2 ")
	})

	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err != nil {
		t.Errorf("Watch after Close: %v", err)
	}
	run(t, "ip rule add pref 32767 lookup default")
	run(t, "ip addr flush dev eth1")
	after := hostState(t)
	for _, gone := range []string{"proto 198", "19808", tunName} {
		if strings.Contains(after, gone) {
			t.Errorf("%s is left", gone)
		}
	}
}

func TestIntegrationWatchDeleted(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	openTUN(t, tunName)
	before := hostState(t)
	cfg := testConfig()
	cfg.Routes = netcfg.DefaultRoutes()
	h := open(t, cfg)
	result := watch(t, h)
	run(t, "ip link del "+tunName)
	if err := <-result; !errors.Is(err, netcfg.ErrLinkGone) || !strings.Contains(err.Error(), tunName) {
		t.Errorf("Watch: %v", err)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	sameState(t, before, hostState(t))
}
