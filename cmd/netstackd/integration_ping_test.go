//go:build linux

package main_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"netstackd/internal/testnet"
)

// wantPing checks that each of count echo requests is answered exactly once.
func wantPing(t *testing.T, h *testnet.Host, addr netip.Addr, count int, args ...string) {
	t.Helper()
	args = append([]string{"-c", fmt.Sprint(count), "-i", "0.1", "-W", "5"}, args...)
	out := h.Run(t, "ping", append(args, addr.String())...)
	if want := fmt.Sprintf(" %d received", count); !strings.Contains(out, want) || strings.Contains(out, "DUP!") || strings.Contains(out, "wrong") || complains(out) {
		t.Errorf("ping %s:\n%s", addr, out)
	}
}

// The stack answers for itself; any other destination answers for real, or
// there is no answer.
func TestIntegrationPing(t *testing.T) {
	testnet.RequireTool(t, "ping", "nft")
	n, _ := startRouted(t, "--route", "10.77.0.99/32", "--route", "fd77::99/128")
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		t.Run("stack", func(t *testing.T) {
			n.A.Through(t, tun, 250, 250, func() { wantPing(t, n.A, stackAddr(f), 3) })
		})
		for _, size := range []string{"0", "56", "1400", "4000"} {
			t.Run("foreign/size="+size, func(t *testing.T) {
				n.A.Through(t, tun, 3*28, 3*28, func() { wantPing(t, n.A, testnet.Dest(f, 5), 3, "-s", size) })
			})
		}
		t.Run("dead", func(t *testing.T) {
			dead := map[testnet.Family]string{testnet.IPv4: "10.77.0.99", testnet.IPv6: "fd77::99"}[f]
			wantNoPing(t, n.A, dead)
		})
		t.Run("silent", func(t *testing.T) {
			filter(t, n.B, f, 200, "drop")
			wantNoPing(t, n.A, testnet.Dest(f, 200).String())
		})
	})
}

// A host that lets its users open no ping socket lets exec open none for them.
// The command's pings are refused at once, not lost, and a warning says why.
func TestIntegrationExecPingForbidden(t *testing.T) {
	testnet.RequireTool(t, "ping", "sysctl")
	n := testnet.New(t)
	n.A.Run(t, "sysctl", "-qw", "net.ipv4.ping_group_range=1 0")
	for f, refused := range map[testnet.Family]string{
		testnet.IPv4: "Packet filtered",
		testnet.IPv6: "Administratively prohibited",
	} {
		t.Run(f.String(), func(t *testing.T) {
			r := runExec(t, n.A, "--", "ping", "-c", "2", "-i", "0.2", "-W", "5", testnet.Dest(f, 1).String())
			r.oneLine(t, 1, "level=WARN", "echo requests", "ping_group_range")
			if !strings.Contains(r.stdout, refused) || !strings.Contains(r.stdout, " 0 received, +2 errors") {
				t.Errorf("ping said:\n%s", r.stdout)
			}
		})
	}
}

func wantNoPing(t *testing.T, h *testnet.Host, addr string) {
	t.Helper()
	h.Through(t, tun, 100, 0, func() {
		out, err := h.Output("ping", "-c", "2", "-i", "0.2", "-W", "1", addr)
		if err == nil || !strings.Contains(out, " 0 received") {
			t.Errorf("ping %s was answered: %v\n%s", addr, err, out)
		}
	})
}

// filter makes the server treat packets to its i-th destination as the nft
// verdict says, until the test ends.
func filter(t *testing.T, h *testnet.Host, f testnet.Family, i int, verdict string) {
	t.Helper()
	testnet.RequireTool(t, "nft")
	proto := map[testnet.Family]string{testnet.IPv4: "ip", testnet.IPv6: "ip6"}[f]
	table := fmt.Sprintf("inet test%d", i)
	h.Run(t, "nft", fmt.Sprintf("add table %s; add chain %s in { type filter hook input priority 0; }; add rule %s in %s daddr %s %s",
		table, table, table, proto, testnet.Dest(f, i), verdict))
	t.Cleanup(func() { unfilter(h, i) })
}

// unfilter lets them through again.
func unfilter(h *testnet.Host, i int) {
	_, _ = h.Output("nft", fmt.Sprintf("delete table inet test%d", i))
}
