//go:build linux

package main_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"netstackd/internal/testnet"
)

// startDNS runs a nameserver on B and returns a function that asks a nameserver
// by dig from A and returns the answers.
func startDNS(t *testing.T, n *testnet.Network) func(server netip.Addr, args ...string) string {
	t.Helper()
	names := map[string][]netip.Addr{"www.test": {testnet.Dest(testnet.IPv4, 1), testnet.Dest(testnet.IPv6, 1)}}
	n.B.ServeDNS(t, "[::]:53", names) // its TCP is of both families, and all that is asked here
	return func(server netip.Addr, args ...string) string {
		out, _ := n.A.Output("dig", append([]string{"+short", "+tries=1", "+timeout=6", "@" + server.String(), "www.test", "AAAA"}, args...)...)
		return strings.TrimSpace(out)
	}
}

// startMicrosocks runs a SOCKS server without UDP on a host.
func startMicrosocks(t *testing.T, h *testnet.Host, port string, args ...string) {
	t.Helper()
	upstream := h.Command(t.Context(), "microsocks", append([]string{"-p", port}, args...)...)
	if err := upstream.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = upstream.Process.Kill()
		_ = upstream.Wait()
	})
	testnet.Eventually(t, 5*time.Second, "microsocks listens", func() bool {
		c, err := h.DialTimeout("tcp", "127.0.0.1:"+port, time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// Names are resolved through an upstream that has no UDP, whichever nameserver
// is asked, over UDP and TCP, and whatever sends its address into the TUN.
func TestIntegrationDNSWithoutUDP(t *testing.T) {
	testnet.RequireTool(t, "dig", "microsocks")
	for _, route := range [][]string{{"--route", "default"}, routes()} {
		t.Run(route[1], func(t *testing.T) {
			n := testnet.New(t)
			ask := startDNS(t, n)
			startMicrosocks(t, n.B, "1080")
			args := append(route, "--via", "socks5://"+n.B.IP4.String()+":1080", "--drain", "0s")
			d := n.A.Start(t, program.Path(t), args...)
			want := testnet.Dest(testnet.IPv6, 1).String()
			servers := []netip.Addr{testnet.Dest(testnet.IPv4, 3), testnet.Dest(testnet.IPv6, 3)}
			if route[1] == "default" { // on a connected subnet too
				servers = append(servers, n.B.IP4, n.B.IP6)
			}
			for _, server := range servers {
				for _, transport := range []string{"+notcp", "+tcp"} {
					n.A.Through(t, tun, 50, 50, func() {
						if got := ask(server, transport); got != want {
							t.Errorf("dig %s @%s: %q", transport, server, got)
						}
					})
				}
			}
			d.Stop()
		})
	}
}

// A nameserver that the upstream does not reach is stood in for by those that it
// does.
func TestIntegrationDNSOutOfReach(t *testing.T) {
	testnet.RequireTool(t, "dig", "microsocks")
	n := testnet.New(t)
	ask := startDNS(t, n)
	// What the daemon falls back to in the end.
	n.B.Run(t, "ip", "addr", "add", "9.9.9.9/32", "dev", "lo")
	startMicrosocks(t, n.B, "1080")
	d := n.A.Start(t, program.Path(t), "--route", "default", "--drain", "0s", "--via", "socks5://"+n.B.IP4.String()+":1080")
	n.A.Through(t, tun, 50, 50, func() {
		if got, want := ask(netip.MustParseAddr("192.0.2.53")), testnet.Dest(testnet.IPv6, 1).String(); got != want {
			t.Errorf("dig: %q, want %q", got, want)
		}
	})
	d.Stop()
}
