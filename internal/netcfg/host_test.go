//go:build linux

package netcfg_test

import (
	"context"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"netstackd/internal/netcfg"
	"netstackd/internal/testnet"
)

const tunName = "netstackd0"

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func testConfig() netcfg.Config {
	return netcfg.Config{Addresses: prefixes("198.18.0.1/30", "fd19:8::1/126"), MTU: 4000, TxQueueLen: 700}
}

// open opens and, with routes, captures.
func open(t *testing.T, cfg netcfg.Config) *netcfg.Host {
	t.Helper()
	h, err := netcfg.Open(t.Context(), tunName, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	if err := h.Capture(t.Context()); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestIntegrationOpen(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	tun := openTUN(t, tunName)
	before := hostState(t)
	h := open(t, testConfig())

	addr := run(t, "ip addr show dev "+tunName)
	for _, want := range []string{"198.18.0.1/30", "fd19:8::1/126", "mtu 4000", "qlen 700", ",UP"} {
		if !strings.Contains(addr, want) {
			t.Errorf("no %q in %s", want, addr)
		}
	}
	if strings.Contains(addr, "fe80:") || strings.Contains(addr, "tentative") {
		t.Errorf("link-local or tentative address: %s", addr)
	}
	for _, stack := range []string{"198.18.0.2", "fd19:8::2"} {
		send(t, stack, 5000, "to the stack", nil)
		if p := tun.expect(t, stack, 5000); p.src != netip.MustParseAddr(stack).Prev() {
			t.Errorf("%s is reached from %s", stack, p.src)
		}
	}
	for a, want := range map[string]bool{
		hostAddr4: true, hostAddr6: true, "198.18.0.1": true, "fd19:8::1": true, "127.0.0.5": true, "::1": true,
		"::ffff:10.0.0.1": true, "198.18.0.2": false, peerAddr4: false, farAddr6: false,
	} {
		if h.IsLocal(netip.MustParseAddr(a)) != want {
			t.Errorf("IsLocal(%s) is not %v", a, want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { h.IsLocal(netip.MustParseAddr("10.0.0.1")) }); n != 0 {
		t.Errorf("IsLocal allocates %v times", n)
	}
	if h.Mark() != 0 {
		t.Errorf("mark %#x without routes", h.Mark())
	}
	for range 2 {
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
	}
	sameState(t, before, hostState(t))
}

func TestIntegrationOpenErrors(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	openTUN(t, tunName)
	run(t, "ip link set "+tunName+" addrgenmode none up") // the first time attaches a queue
	run(t, "ip link set "+tunName+" down")
	before := hostState(t) + run(t, "ip addr")
	for name, c := range map[string]struct {
		link string
		cfg  netcfg.Config
		want string
	}{
		"no link":       {"nosuch0", testConfig(), "nosuch0"},
		"address taken": {tunName, netcfg.Config{Addresses: prefixes("198.18.0.1/30", "10.0.0.9/24")}, "choose another prefix"},
		"no interface":  {tunName, netcfg.Config{Addresses: prefixes("198.18.0.1/30"), Interface: "nosuch1"}, "interface nosuch1"},
		"loop":          {tunName, netcfg.Config{Interface: tunName}, "interface netstackd0 is the TUN itself"},
		"mtu":           {tunName, netcfg.Config{MTU: 1 << 20}, "mtu"},
	} {
		h, err := netcfg.Open(context.Background(), c.link, c.cfg)
		if err == nil {
			h.Close()
			t.Errorf("%s: no error", name)
		} else if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	sameState(t, before, hostState(t)+run(t, "ip addr"))
}

// An ordinary user can't change the host, and needn't where root has done it all.
func TestIntegrationOpenUnprivileged(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	openTUN(t, tunName)
	cfg := netcfg.Config{Addresses: prefixes("198.18.0.1/30", "fd19:8::1/126")}
	runtime.LockOSThread() // never unlocked: this thread has lost its capabilities
	opens := func() error {
		h, err := netcfg.Open(t.Context(), tunName, cfg)
		if err != nil {
			return err
		}
		return h.Close()
	}
	run(t, "ip addr add 198.18.0.1/30 dev "+tunName)
	run(t, "ip addr add fd19:8::1/126 dev "+tunName+" nodad")
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var full, none [2]unix.CapUserData
	if err := unix.Capget(&hdr, &full[0]); err != nil {
		t.Fatal(err)
	}
	as := func(caps *[2]unix.CapUserData) {
		now := *caps
		now[0].Permitted, now[1].Permitted = full[0].Permitted, full[1].Permitted
		if err := unix.Capset(&hdr, &now[0]); err != nil {
			t.Fatal(err)
		}
	}
	as(&none)
	if err := opens(); err == nil || !strings.Contains(err.Error(), "up: ") {
		t.Errorf("with a TUN that is down: %v", err)
	}
	as(&full)
	run(t, "ip link set "+tunName+" addrgenmode none") // a link-local address would come later
	run(t, "ip link set "+tunName+" up")
	eventually(t, "the kernel uses the IPv6 address", func() bool {
		return strings.Contains(run(t, "ip -6 route show table local"), "local fd19:8::1 ")
	})
	before := hostState(t)
	as(&none)
	if err := opens(); err != nil {
		t.Error(err)
	}
	as(&full)
	sameState(t, before, hostState(t))
	run(t, "ip addr del fd19:8::1/126 dev "+tunName)
	as(&none)
	if err := opens(); err == nil || !strings.Contains(err.Error(), "add address fd19:8::1/126") {
		t.Errorf("without one address: %v", err)
	}
	as(&full)
}

// Strict reverse-path filtering on a bound interface that isn't the host's own
// way out is refused, and what the error says to do about it works.
func TestIntegrationReversePath(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	openTUN(t, tunName)
	run(t, "ip link add eth1 type veth peer name eth1 netns nsnc-peer")
	run(t, "ip link set eth1 up")
	run(t, "ip addr add 172.20.0.1/24 dev eth1")
	run(t, "ip route add default via 172.20.0.2 metric 500")
	for _, i := range []string{"all", "eth0", "eth1"} {
		setSysctl(t, "ipv4/conf/"+i+"/rp_filter", "0")
	}
	open := func(iface string) error {
		cfg := testConfig()
		cfg.Interface = iface
		h, err := netcfg.Open(t.Context(), tunName, cfg)
		if err == nil {
			err = h.Close()
		}
		return err
	}
	if err := open("eth1"); err != nil {
		t.Errorf("not strict: %v", err)
	}
	setSysctl(t, "ipv4/conf/all/rp_filter", "1")
	if err := open("eth0"); err != nil {
		t.Errorf("the host's own way out: %v", err)
	}
	err := open("eth1")
	if err == nil || !strings.Contains(err.Error(), "interface eth1: rp_filter=1") {
		t.Fatalf("strict: %v", err)
	}
	_, mend, _ := strings.Cut(err.Error(), "another: ")
	run(t, mend)
	if err := open("eth1"); err != nil {
		t.Errorf("after %s: %v", mend, err)
	}
	// Policy routing by source is the other way to mend it.
	setSysctl(t, "ipv4/conf/eth1/rp_filter", "1")
	run(t, "ip route add default via 172.20.0.2 table 100")
	run(t, "ip rule add pref 20000 from 172.20.0.1 lookup 100")
	if err := open("eth1"); err != nil {
		t.Errorf("with policy routing: %v", err)
	}
}
