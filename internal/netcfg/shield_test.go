//go:build linux

package netcfg_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"netstackd/internal/netcfg"
	"netstackd/internal/testnet"
)

// buildBox adds a namespace behind a bridge of the host, whose sources the host
// masquerades, as containers and virtual machines are.
func buildBox(t *testing.T) {
	t.Helper()
	run(t, "ip netns add nsnc-box")
	t.Cleanup(func() { run(t, "ip netns del nsnc-box") })
	for _, c := range []string{
		"ip link add br0 type bridge",
		"ip link set br0 addrgenmode none",
		"ip link set br0 up",
		"ip addr add 172.20.0.1/24 dev br0",
		"ip addr add fd00:20::1/64 dev br0 nodad",
		"ip link add box type veth peer name eth0 netns nsnc-box",
		"ip link set box master br0 addrgenmode none up",
		"ip -n nsnc-box link set eth0 addrgenmode none up",
		"ip -n nsnc-box addr add 172.20.0.2/24 dev eth0",
		"ip -n nsnc-box addr add fd00:20::2/64 dev eth0 nodad",
		"ip -n nsnc-box route add default via 172.20.0.1",
		"ip -n nsnc-box -6 route add default via fd00:20::1",
		"nft add table inet nat",
		"nft add chain inet nat post { type nat hook postrouting priority srcnat ; }",
		"nft add rule inet nat post iifname br0 masquerade",
	} {
		run(t, c)
	}
	for _, s := range []string{"ipv4/ip_forward", "ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding"} {
		setSysctl(t, s, "1")
	}
}

// inBox runs f on a thread in the box.
func inBox(t *testing.T, f func() error) error {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with us
		ns, err := os.Open("/run/netns/nsnc-box")
		if err == nil {
			defer ns.Close()
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// What is behind this host and masqueraded by it does not reach the stack, unless
// this host is a gateway.
func TestIntegrationShield(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	buildBox(t)
	tun := openTUN(t, tunName)
	before := hostState(t)
	peer := listenPeer(t, 5000)
	connect := func(addr string, port int) error {
		return inBox(t, func() error {
			c, err := (&net.Dialer{Timeout: timeout}).Dial("tcp", net.JoinHostPort(addr, fmt.Sprint(port)))
			if err == nil {
				c.Close()
			}
			return err
		})
	}
	say := func(addr string, port int, text string) {
		t.Helper()
		if err := inBox(t, func() error {
			c, err := net.Dial("udp", net.JoinHostPort(addr, fmt.Sprint(port)))
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write([]byte(text))
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	stacks := []string{"198.18.0.2", "fd19:8::2"}
	for i, c := range []struct {
		name                 string
		routes               bool
		gateway, stackEgress bool
		shut, other          bool // the service's port, another one
	}{
		{"bare", false, false, false, true, true},
		{"capture", true, false, false, true, true},
		{"stack egress", false, false, true, true, false},
		{"gateway", false, true, false, false, false},
	} {
		cfg := testConfig()
		cfg.Gateway, cfg.StackEgress, cfg.StackPorts = c.gateway, c.stackEgress, []uint16{1080}
		if c.routes {
			cfg.Routes = prefixes("192.0.2.0/24", "2001:db8:1::/48")
		}
		h := open(t, cfg)
		for j, stack := range stacks {
			// This host's own sockets reach it.
			own := 7000 + 10*i + j
			send(t, stack, own, "own", nil)
			tun.expect(t, stack, uint16(own))
			if c.shut {
				if err := connect(stack, 1080); !errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.EACCES) {
					t.Errorf("%s: connect %s:1080: %v", c.name, stack, err)
				}
			}
			if port := 8000 + 10*i + j; c.other {
				if err := connect(stack, port); !errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.EACCES) {
					t.Errorf("%s: connect %s:%d: %v", c.name, stack, port, err)
				}
			} else {
				say(stack, port, "forwarded")
				tun.expect(t, stack, uint16(port))
			}
		}
		for _, dst := range near { // the box has its network
			say(dst, 5000, c.name+dst)
			peer.expect(t, c.name+dst)
		}
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
		sameState(t, before, hostState(t))
	}
	tun.mu.Lock()
	defer tun.mu.Unlock()
	if slices.ContainsFunc(tun.seen, func(p packet) bool { return p.dport == 1080 }) {
		t.Error("a packet for the stack's service came into the TUN")
	}
}

// A foreign rule that is asked before ours is found before the capture counts as
// complete, and the error names it.
func TestIntegrationObstacle(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	openTUN(t, tunName)
	cfg := testConfig()
	cfg.Routes = append(netcfg.DefaultRoutes(), prefixes("203.0.113.0/24", "2001:db8:ff::/48")...)
	cfg.ExcludeUIDs = []netcfg.UIDRange{{0, 0}}
	for _, c := range []struct{ rule, text string }{
		{"ip rule add pref 100 lookup main", `"100: from all lookup main"`},
		{"ip -6 rule add pref 100 lookup main", `"100: from all lookup main"`},
		{"ip rule add pref 200 to 203.0.113.0/24 blackhole", `"200: from all to 203.0.113.0/24 blackhole"`},
		{"ip -6 rule add pref 9799 uidrange 1-99 unreachable", `"9799: from all uidrange 1-99 unreachable"`},
		{"ip rule add pref 201 prohibit", `"201: from all prohibit"`},
		{"ip rule add pref 300 ipproto tcp lookup main", `"300: from all ipproto 6 lookup main"`},
		{"ip -6 rule add pref 300 ipproto udp lookup main", `"300: from all ipproto 17 lookup main"`},
		{"ip rule add pref 300 not fwmark 0x51 lookup main", `"300: not from all fwmark 0x51 lookup main"`},
	} {
		run(t, c.rule)
		before := hostState(t)
		h, err := netcfg.Open(t.Context(), tunName, cfg)
		if err != nil {
			t.Fatal(err)
		}
		err = h.Capture(t.Context())
		if err == nil || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), "del pref") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", c.rule, err)
		}
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
		sameState(t, before, hostState(t))
		run(t, strings.Replace(c.rule, " add ", " del ", 1))
	}
	// One that sends elsewhere what is not captured is no obstacle, nor is one
	// whose table has no route.
	run(t, "ip rule add pref 100 uidrange 0-0 lookup main")
	run(t, "ip rule add pref 101 lookup 4242")
	open(t, cfg)
}

// A foreign rule that is asked before ours for a part of what is captured is named in
// a warning, once. One for what is not captured is not.
func TestIntegrationDetour(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	openTUN(t, tunName)
	for _, c := range []struct{ rule, text string }{
		{"ip rule add pref 100 ipproto udp dport 53 lookup main", `ip rule 100: from all ipproto 17 dport 53-53 lookup main`},
		{"ip -6 rule add pref 100 ipproto tcp sport 1000-2000 lookup main", `ip -6 rule 100: from all ipproto 6 sport 1000-2000 lookup main`},
		{"ip rule add pref 101 dport 443 unreachable", `ip rule 101: from all dport 443-443 unreachable`},
		{"ip rule add pref 102 uidrange 1000-1999 lookup main", `ip rule 102: from all uidrange 1000-1999 lookup main`},
		{"ip -6 rule add pref 103 not uidrange 1-99 lookup main", `ip -6 rule 103: not from all uidrange 1-99 lookup main`},
		{"ip rule add pref 104 fwmark 0x51/0xff lookup main", `ip rule 104: from all fwmark 0x51/0xff lookup main`},
		{"ip rule add pref 105 to 203.0.113.7 prohibit", `ip rule 105: from all to 203.0.113.7/32 prohibit`},
		{"ip rule add pref 106 to 192.0.2.0/24 goto 32766", `ip rule 106: from all to 192.0.2.0/24 goto 32766`},
		{"ip rule add pref 106 to 198.51.0.0/16 lookup main", `ip rule 106: from all to 198.51.0.0/16 lookup main`},
		{"ip -6 rule add pref 106 to 2001::/16 blackhole", `ip -6 rule 106: from all to 2001::/16 blackhole`},
		{"ip rule add pref 107 tos 0x10 blackhole", `ip rule 107: from all tos 0x10 blackhole`},
		{"ip rule add pref 108 uidrange 0-0 dport 22 lookup main", ""}, // not captured
		{"ip rule add pref 108 to 10.0.0.0/24 lookup main", ""},
		{"ip rule add pref 108 to 192.168.7.0/24 lookup main", ""},
		{"ip rule add pref 108 iif eth0 blackhole", ""},
		{"ip rule add pref 108 from 10.0.0.1 lookup main", ""},
		{"ip rule add pref 108 dport 22 lookup 4242", ""},
		{"ip rule add pref 20000 dport 22 blackhole", ""},
	} {
		run(t, c.rule)
		var log bytes.Buffer
		cfg := testConfig()
		cfg.Routes = append(netcfg.DefaultRoutes(), prefixes("203.0.113.0/24")...)
		cfg.Excludes = prefixes("192.168.7.0/24")
		cfg.ExcludeUIDs = []netcfg.UIDRange{{0, 0}}
		cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
		h := open(t, cfg)
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(log.String(), "\n"); c.text == "" && got != 0 || c.text != "" && (got != 1 || !strings.Contains(log.String(), `"`+c.text+`"`)) {
			t.Errorf("%s: %s", c.rule, log.String())
		}
		run(t, strings.Replace(c.rule, " add ", " del ", 1))
	}
}

// Names that any user can take keep no daemon from its numbers.
func TestIntegrationSquat(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	openTUN(t, tunName)
	asUser(65534, func() {
		for n := range 16 {
			c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: fmt.Sprintf("@netstackd/capture/%d", n), Net: "unixgram"})
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { c.Close() })
		}
	})
	cfg := testConfig()
	cfg.Routes = netcfg.DefaultRoutes()
	open(t, cfg)
}

// A second daemon takes the next numbers, and cleans up nothing of the first.
func TestIntegrationSlots(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	openTUN(t, tunName)
	openTUN(t, "netstackd1")
	before := hostState(t)
	cfg := testConfig()
	cfg.Routes = prefixes("203.0.113.0/24")
	h := open(t, cfg)
	one := hostRouting(t)
	second := netcfg.Config{Addresses: prefixes("198.18.0.5/30"), Routes: prefixes("192.0.2.0/24")}
	h2, err := netcfg.Open(t.Context(), "netstackd1", second)
	if err != nil {
		t.Fatal(err)
	}
	if err := h2.Capture(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := netcfg.Cleanup(); n != 0 || err != nil {
		t.Errorf("Cleanup: %d, %v", n, err)
	}
	both := hostRouting(t)
	for l := range strings.Lines(one) {
		if !strings.Contains(both, l) {
			t.Errorf("lost: %s", l)
		}
	}
	if h.Mark() == h2.Mark() || !strings.Contains(both, "lookup 19809") {
		t.Errorf("marks %#x and %#x; %s", h.Mark(), h2.Mark(), both)
	}
	if err := errors.Join(h.Close(), h2.Close()); err != nil {
		t.Fatal(err)
	}
	sameState(t, before, hostState(t))
}
