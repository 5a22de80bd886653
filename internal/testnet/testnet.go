//go:build linux

// Package testnet builds small networks out of namespaces for integration
// tests, and runs programs and servers in them.
//
// New makes two hosts joined by a veth:
//
//	A (client, runs netstackd)              B (server)
//	10.77.0.1/24  fd77::1/64  eth0 ──── eth0  10.77.0.2/24  fd77::2/64
//	route 10.78.0.0/16, fd78::/64 via B     owns every address of both
//
// B answers for all of 10.78.0.0/16 and fd78::/64, so that a test has as many
// distinct destinations as it wants. A socket stays in the namespace it was
// made in: servers run in the test's own process, made by Host.Do on a thread
// that visits the namespace. Everything is gone when the test ends.
package testnet

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Device is the interface that joins the hosts, under this name on both.
const Device = "eth0"

// Network is two hosts and what joins them.
type Network struct {
	A *Host // the client, where netstackd runs
	B *Host // the server
}

// Family is an IP version.
type Family int

// The two of them.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// Families is for tests that run once for each.
func Families() []Family { return []Family{IPv4, IPv6} }

// String is the name a subtest has.
func (f Family) String() string { return "IPv" + strconv.Itoa(int(f)) }

// Dest is the i-th of B's addresses behind the route, i below 65,535.
func Dest(f Family, i int) netip.Addr {
	if f == IPv4 {
		return netip.AddrFrom4([4]byte{10, 78, byte((i + 1) >> 8), byte(i + 1)})
	}
	return netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x78, 14: byte((i + 1) >> 8), 15: byte(i + 1)})
}

// DestPrefix holds every Dest of the family: what tests give to --route.
func DestPrefix(f Family) netip.Prefix {
	if f == IPv4 {
		return netip.MustParsePrefix("10.78.0.0/16")
	}
	return netip.MustParsePrefix("fd78::/64")
}

// New makes a network for one test, and skips or fails it where that can't be
// done (see RequireRoot).
func New(t testing.TB) *Network {
	t.Helper()
	RequireRoot(t)
	sweep(t)
	n := &Network{
		A: newHost(t, "a", "10.77.0.1", "fd77::1"),
		B: newHost(t, "b", "10.77.0.2", "fd77::2"),
	}
	ip(t, "link", "add", Device, "netns", n.A.Name, "type", "veth", "peer", "name", Device, "netns", n.B.Name)
	for _, h := range []*Host{n.A, n.B} {
		h.configure(t)
	}
	n.A.ip(t, "route", "add", DestPrefix(IPv4).String(), "via", n.B.IP4.String())
	n.A.ip(t, "route", "add", DestPrefix(IPv6).String(), "via", n.B.IP6.String())
	n.B.ip(t, "route", "add", "local", DestPrefix(IPv4).String(), "dev", "lo")
	n.B.ip(t, "route", "add", "local", DestPrefix(IPv6).String(), "dev", "lo")
	n.await(t)
	return n
}

// await waits until both families work in both directions. The kernel takes
// up to a second to tell IPv6 that a link has its carrier.
func (n *Network) await(t testing.TB) {
	t.Helper()
	for _, f := range Families() {
		for _, pair := range [][2]*Host{{n.A, n.B}, {n.B, n.A}} {
			Eventually(t, 10*time.Second, "the hosts reach each other", func() bool {
				const closed = 1 // no server there: the answer is a refusal
				_, err := pair[0].DialTimeout("tcp", netip.AddrPortFrom(pair[1].Addr(f), closed).String(), 200*time.Millisecond)
				return errors.Is(err, syscall.ECONNREFUSED)
			})
		}
	}
}

// newHost adds a namespace under the first free number of this process.
func newHost(t testing.TB, letter, v4, v6 string) *Host {
	t.Helper()
	h := &Host{IP4: netip.MustParseAddr(v4), IP6: netip.MustParseAddr(v6)}
	for i := 1; ; i++ {
		h.Name = fmt.Sprintf("nst-%d-%d%s", os.Getpid(), i, letter)
		out, err := exec.Command("ip", "netns", "add", h.Name).CombinedOutput()
		if err == nil {
			break
		}
		if !strings.Contains(string(out), "File exists") {
			unable(t, "needs network namespaces: "+strings.TrimSpace(string(out)))
		}
	}
	t.Cleanup(func() {
		if err := remove(h.Name); err != nil {
			t.Errorf("testnet: %v", err)
		}
	})
	return h
}

// configure brings the host's interfaces up. Addresses are usable at once: no
// duplicate address detection, no router discovery. A neighbor that doesn't
// answer is asked again after 100 ms and not 1 s, three times in all.
func (h *Host) configure(t testing.TB) {
	t.Helper()
	h.Run(t, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=0", "net.ipv6.conf.default.disable_ipv6=0",
		"net.ipv6.conf."+Device+".disable_ipv6=0", "net.ipv6.conf."+Device+".accept_dad=0",
		"net.ipv6.conf.default.accept_dad=0", "net.ipv4.neigh."+Device+".retrans_time_ms=100", "net.ipv6.neigh."+Device+".retrans_time_ms=100", "net.ipv4.ping_group_range=0 2147483647",
		"net.ipv6.ip_nonlocal_bind=1", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0", "net.ipv4.icmp_msgs_per_sec=1000000")
	h.ip(t, "link", "set", "lo", "up")
	h.ip(t, "addr", "add", h.IP4.String()+"/24", "dev", Device)
	h.ip(t, "addr", "add", h.IP6.String()+"/64", "dev", Device, "nodad")
	h.ip(t, "link", "set", Device, "up")
}

// remove deletes a namespace after ending what still runs in it.
func remove(name string) error {
	pids, _ := exec.Command("ip", "netns", "pids", name).Output()
	for _, word := range strings.Fields(string(pids)) {
		if pid, err := strconv.Atoi(word); err == nil && pid != os.Getpid() {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it is in our namespace, so it is ours
		}
	}
	if out, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil {
		return fmt.Errorf("delete %s: %w: %s", name, err, out)
	}
	return nil
}

// sweep removes the namespaces of test processes that died without cleaning up.
func sweep(t testing.TB) {
	t.Helper()
	paths, _ := filepath.Glob("/run/netns/nst-*")
	for _, path := range paths {
		name := filepath.Base(path)
		pid, _, _ := strings.Cut(strings.TrimPrefix(name, "nst-"), "-")
		n, err := strconv.Atoi(pid)
		if err != nil || syscall.Kill(n, 0) == nil {
			continue
		}
		if err := remove(name); err != nil {
			t.Logf("testnet: left by a dead test: %v", err)
		}
	}
}
