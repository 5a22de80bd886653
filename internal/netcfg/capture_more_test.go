//go:build linux

package netcfg_test

import (
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"netstackd/internal/netcfg"
	"netstackd/internal/testnet"
)

// A route to one host of a connected subnet is captured, the rest of the subnet
// is not; and an excluded part of a route is not.
func TestIntegrationCaptureExplicit(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	run(t, "ip -n nsnc-peer addr add 10.0.0.3/24 dev eth0")
	run(t, "ip -n nsnc-peer addr add fd00:1::3/64 dev eth0 nodad")
	run(t, "ip -n nsnc-peer addr add 203.0.113.8/32 dev lo")
	tun := openTUN(t, tunName)
	before := hostState(t)
	cfg := testConfig()
	cfg.Routes = prefixes("10.0.0.2/32", "fd00:1::2/128", "203.0.113.0/24")
	cfg.Excludes = prefixes("203.0.113.8/32")
	for _, withDefault := range []bool{false, true} {
		if withDefault {
			cfg.Routes = append(cfg.Routes, netcfg.DefaultRoutes()...)
		}
		h := open(t, cfg)
		peer := listenPeer(t, 5000)
		for _, dst := range near {
			send(t, dst, 5000, "captured", nil)
			tun.expect(t, dst, 5000)
		}
		send(t, farAddr4, 5000, "captured", nil)
		tun.expect(t, farAddr4, 5000)
		for _, dst := range []string{"10.0.0.3", "fd00:1::3", "203.0.113.8"} {
			send(t, dst, 5000, "direct "+dst, nil)
			peer.expect(t, "direct "+dst)
		}
		if !withDefault {
			send(t, farAddr6, 5000, "not captured", nil)
			peer.expect(t, "not captured")
		}
		peer.Close()
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
		sameState(t, before, hostState(t))
	}
}

// asUser runs f on a thread whose sockets belong to uid.
func asUser(uid int, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with us
		unix.Syscall(unix.SYS_SETFSUID, uintptr(uid), 0, 0)
		f()
	}()
	<-done
}

func TestIntegrationCaptureUsers(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	for _, i := range []string{"all", "default", "eth0"} {
		setSysctl(t, "ipv4/conf/"+i+"/rp_filter", "1")
	}
	tun := openTUN(t, tunName)
	peer := listenPeer(t, 5000)
	before := hostState(t)
	captured := func(uid int, port int) {
		for _, dst := range far {
			asUser(uid, func() { send(t, dst, port, "captured", nil) })
			tun.expect(t, dst, uint16(port))
		}
	}
	direct := func(uid int) {
		for _, dst := range far {
			asUser(uid, func() { send(t, dst, 5000, "direct "+dst, nil) })
			peer.expect(t, "direct "+dst)
		}
	}
	cfg := testConfig()
	cfg.Routes = netcfg.DefaultRoutes()
	cfg.IncludeUIDs = []netcfg.UIDRange{{1000, 1000}, {2000, 2010}}
	h := open(t, cfg)
	captured(1000, 6000)
	captured(2005, 6001)
	direct(0)
	direct(1001)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	sameState(t, before, hostState(t))

	cfg.ExcludeUIDs, cfg.IncludeUIDs = []netcfg.UIDRange{{1000, 1000}, {0, 0}}, nil
	h = open(t, cfg)
	captured(1001, 6002)
	direct(1000)
	direct(0)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	sameState(t, before, hostState(t))
}

// What is meant for one link stays on it.
func TestIntegrationCaptureBroadcast(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	openTUN(t, tunName)
	cfg := testConfig()
	cfg.Routes = netcfg.DefaultRoutes()
	open(t, cfg)
	for dst, dev := range map[string]string{
		"255.255.255.255": "eth0", "224.0.0.251": "eth0", "169.254.10.1": "eth0", "10.0.0.255": "eth0",
		"ff02::fb": "eth0", "198.18.0.2": tunName, "198.18.0.0": tunName, "8.8.8.8": tunName, "2001:db8::1": tunName,
	} {
		if out := run(t, "ip route get "+dst); !strings.Contains(out, "dev "+dev) {
			t.Errorf("%s doesn't leave by %s: %s", dst, dev, out)
		}
	}
	// Our own sockets never come back into the TUN, not even for addresses
	// of its subnet that no host has.
	for _, dst := range []string{"198.18.0.0", "fd19:8::3"} {
		out := run(t, "ip route get "+dst+" mark 0x198")
		if strings.Contains(out, tunName) {
			t.Errorf("a marked packet to %s loops: %s", dst, out)
		}
	}
}

// Two daemons on one host have their own numbers.
func TestIntegrationCaptureTwice(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	run(t, "ip rule add pref 9950 from 192.0.2.0/24 lookup main") // in the second band
	run(t, "ip rule add pref 5000 fwmark 0x198/0xfff lookup main")
	first, second := openTUN(t, tunName), openTUN(t, "netstackd1")
	before := hostState(t)
	cfg := testConfig()
	cfg.Routes = prefixes("203.0.113.7/32")
	h1 := open(t, cfg)
	other := netcfg.Config{Addresses: prefixes("198.18.0.5/30"), Routes: prefixes("203.0.113.8/32")}
	h2, err := netcfg.Open(t.Context(), "netstackd1", other)
	if err != nil {
		t.Fatal(err)
	}
	defer h2.Close()
	if err := h2.Capture(t.Context()); err != nil {
		t.Fatal(err)
	}
	if h1.Mark() == h2.Mark() || h1.Mark() == 0x198 {
		t.Errorf("marks %#x and %#x", h1.Mark(), h2.Mark())
	}
	if n, err := netcfg.Cleanup(); n != 0 || err != nil {
		t.Errorf("Cleanup removed %d things of running daemons, %v", n, err)
	}
	send(t, "203.0.113.7", 5000, "first", nil)
	send(t, "203.0.113.8", 5000, "second", nil)
	first.expect(t, "203.0.113.7", 5000)
	if p := second.expect(t, "203.0.113.8", 5000); p.src != netip.MustParseAddr("198.18.0.5") {
		t.Errorf("source %s", p.src)
	}
	if err := h1.Close(); err != nil {
		t.Fatal(err)
	}
	if err := h2.Close(); err != nil {
		t.Fatal(err)
	}
	sameState(t, before, hostState(t))
}
