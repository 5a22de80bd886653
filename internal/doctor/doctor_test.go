//go:build linux

package doctor_test

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netstackd/internal/doctor"
	"netstackd/internal/testnet"
)

// find returns the check of that name, having seen that all are well formed.
func find(t *testing.T, name string) doctor.Check {
	t.Helper()
	var found doctor.Check
	for _, c := range doctor.Run(t.Context()) {
		if c.Name == "" || c.Detail == "" || strings.Contains(c.Detail+c.Fix, "\n") || (c.Fix == "") != (c.Status == doctor.Pass) {
			t.Errorf("malformed: %+v", c)
		}
		t.Logf("%s  %s: %s  %s", c.Status, c.Name, c.Detail, c.Fix)
		if c.Name == name {
			found = c
		}
	}
	if found.Name == "" {
		t.Fatalf("no check %q", name)
	}
	return found
}

// Each thing that the doctor looks at is broken in turn, as far as a namespace
// can, and mended again.
func TestIntegrationDoctor(t *testing.T) {
	testnet.RequireTool(t, "nft")
	if !testnet.Isolate(t) {
		return
	}
	buildUplink(t)
	before := hostState(t)
	for _, c := range []struct {
		name         string
		break_, mend func()
		status       doctor.Status
		fix          string
	}{
		{"tun device", func() { mount(t, "/dev/null", "/dev/net/tun") }, func() { unix.Unmount("/dev/net/tun", 0) },
			doctor.Pass, ""}, // opens, though it is none: the offloads tell
		{"kernel offloads", func() { mount(t, "/dev/null", "/dev/net/tun") }, func() { unix.Unmount("/dev/net/tun", 0) },
			doctor.Warn, "modprobe tun"},
		{"routing rules", func() { run(t, "ip -6 rule add pref 5270 lookup 52") }, func() { run(t, "ip -6 rule del pref 5270") },
			doctor.Warn, "ip -6 rule show pref 5270"},
		{"left over", func() { run(t, "ip rule add pref 9899 nop protocol 198") }, func() { run(t, "ip rule del pref 9899") },
			doctor.Warn, "netstackd cleanup"},
		{"mtu", func() { run(t, "ip link set eth0 mtu 1000") }, func() {
			run(t, "ip link set eth0 mtu 1500")
			run(t, "ip link set eth0 addrgenmode none") // IPv6 went with a too small MTU
			run(t, "ip -6 addr flush dev eth0")
			run(t, "ip -6 addr add fd00:1::1/64 dev eth0 nodad")
			run(t, "ip -6 addr add fe80::1/64 dev eth0 nodad")
			run(t, "ip -6 route add default via fd00:1::2")
		}, doctor.Warn, "ip link set eth0 mtu 1500"},
		// No default route, but a routed prefix, is a way out as well.
		{"mtu", func() {
			run(t, "ip route del default")
			run(t, "ip -6 route del default")
			run(t, "ip route add 172.16.0.0/16 via 10.0.0.2")
		}, func() {
			run(t, "ip route del 172.16.0.0/16")
			run(t, "ip route add default via 10.0.0.2")
			run(t, "ip -6 route add default via fd00:1::2")
		}, doctor.Pass, ""},
		{"mtu", func() {
			run(t, "ip route del default")
			run(t, "ip -6 route del default")
		}, func() {
			run(t, "ip route add default via 10.0.0.2")
			run(t, "ip -6 route add default via fd00:1::2")
		}, doctor.Warn, "ip route"},
		{"firewall", func() {
			run(t, "nft add table inet doctor")
			run(t, "nft add chain inet doctor output { type filter hook output priority 0 ; }")
			run(t, "nft add rule inet doctor output tcp dport 443 drop")
		}, func() { run(t, "nft delete table inet doctor") },
			doctor.Fail, "nft list ruleset # accept what has mark 0x198 on its way out"},
		{"firewall", func() {
			run(t, "nft add table ip6 doctor")
			run(t, "nft add chain ip6 doctor output { type filter hook output priority 0 ; policy drop ; }")
			run(t, "nft add rule ip6 doctor output icmpv6 type != echo-request accept")
		}, func() { run(t, "nft delete table ip6 doctor") },
			doctor.Fail, "nft list ruleset # accept what has mark 0x198 on its way out"},
		{"ping", nil, nil, doctor.Pass, ""},
		{"rp_filter", nil, nil, doctor.Pass, ""},
		{"IPv6 leaks", nil, nil, doctor.Pass, ""},
		{"user namespaces", nil, nil, doctor.Pass, ""},
		{"capabilities", nil, nil, doctor.Pass, ""},
		{"DNS leaks", func() { resolvConf(t, "nameserver fe80::1%eth0\n") }, func() { unix.Unmount("/etc/resolv.conf", 0) },
			doctor.Warn, "# name one by another address in /etc/resolv.conf"},
	} {
		if c.break_ != nil {
			c.break_()
		}
		if got := find(t, c.name); got.Status != c.status || got.Fix != c.fix {
			t.Errorf("%s: %+v", c.name, got)
		}
		if c.mend == nil {
			continue
		}
		c.mend()
		if got := find(t, c.name); got.Status != doctor.Pass {
			t.Errorf("%s, mended: %+v", c.name, got)
		}
	}
	testnet.Eventually(t, 10*time.Second, "the host is as it was", func() bool { return hostState(t) == before })
}

// buildUplink gives this namespace an interface with a default route of each
// family. The gateways do not exist.
func buildUplink(t *testing.T) {
	t.Helper()
	for _, c := range []string{
		"ip link set lo up",
		"ip link add eth0 type veth peer name peer0",
		"ip link set peer0 addrgenmode none up",
		"ip link set eth0 addrgenmode none up",
		"ip addr add 10.0.0.1/24 dev eth0",
		"ip -6 addr add fd00:1::1/64 dev eth0 nodad",
		"ip -6 addr add fe80::1/64 dev eth0 nodad",
		"ip route add default via 10.0.0.2",
		"ip -6 route add default via fd00:1::2",
	} {
		run(t, c)
	}
	testnet.Eventually(t, 10*time.Second, "the link has a carrier and addresses work", func() bool {
		out := run(t, "ip -6 route show table all") + run(t, "ip route show table all")
		return strings.Contains(out, "local fd00:1::1 ") && strings.Contains(out, "local fe80::1 ") && !strings.Contains(out, "linkdown")
	})
}

// hostState is the routing and the filters: sorted lines, since an interface
// that had IPv6 off and on has its routes after those of others.
func hostState(t *testing.T) string {
	t.Helper()
	var lines []string
	for _, c := range []string{"ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all", "nft list ruleset"} {
		lines = slices.AppendSeq(lines, strings.Lines(run(t, c)))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// run runs one command line, split at spaces, and returns its output.
func run(t *testing.T, line string) string {
	t.Helper()
	f := strings.Fields(line)
	out, err := exec.Command(f[0], f[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

func mount(t *testing.T, from, on string) {
	t.Helper()
	if err := unix.Mount(from, on, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
}

func resolvConf(t *testing.T, text string) {
	t.Helper()
	f := t.TempDir() + "/resolv.conf"
	if err := os.WriteFile(f, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	mount(t, f, "/etc/resolv.conf")
}
