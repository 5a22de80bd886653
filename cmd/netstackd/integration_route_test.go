//go:build linux

package main_test

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"netstackd/internal/testnet"
)

// Whatever --route sends into the TUN works as if it were routed.
func TestIntegrationRoute(t *testing.T) {
	testnet.RequireTool(t, "ping", "dig", "curl")
	n, d := startRouted(t)
	tcp := n.B.ServeTCP(t, ":0", testnet.Echo)
	web := n.B.ServeHTTP(t, ":0", http.HandlerFunc(testnet.PeerPage))
	names := map[string][]netip.Addr{"www.test": {testnet.Dest(testnet.IPv4, 1), testnet.Dest(testnet.IPv6, 1)}}
	n.B.ServeDNS(t, "0.0.0.0:53", names)
	n.B.ServeUDP(t, "[::]:53", func(testnet.Datagram) {})

	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		t.Run("tcp", func(t *testing.T) {
			n.A.Through(t, tun, 100_000, 100_000, func() {
				exchange(t, dialTCP(t, n.A, dest(f, 1, tcp)), strings.Repeat("netstackd ", 10_000))
			})
		})
		t.Run("udp", func(t *testing.T) {
			udp := n.B.ServeUDP(t, wildcard(f), testnet.EchoUDP)
			n.A.Through(t, tun, 1200, 1200, func() {
				exchange(t, dialUDP(t, n.A, dest(f, 1, udp)), strings.Repeat("u", 1200))
			})
		})
		t.Run("ping", func(t *testing.T) {
			n.A.Through(t, tun, 3*64, 3*64, func() {
				wantPing(t, n.A, testnet.Dest(f, 1), 3)
			})
		})
		t.Run("http", func(t *testing.T) {
			out := n.A.Run(t, "curl", "-sS", "--max-time", "10", "http://"+dest(f, 2, web)+"/")
			if want := "hello " + n.A.Addr(f).String() + "\n"; out != want {
				t.Errorf("got %q, want %q", out, want)
			}
		})
	})
	t.Run("dns", func(t *testing.T) {
		for _, transport := range []string{"+notcp", "+tcp"} {
			n.A.Through(t, tun, 50, 50, func() {
				out := n.A.Run(t, "dig", "+short", "+tries=1", transport, "@"+testnet.Dest(testnet.IPv4, 3).String(), "www.test", "AAAA")
				if got := strings.TrimSpace(out); got != testnet.Dest(testnet.IPv6, 1).String() {
					t.Errorf("dig %s: %q", transport, got)
				}
			})
		}
	})
	d.Stop()
}

// The route holds beside others' connections: those that were open before it
// moved into the TUN, outgoing and incoming, live on, and new ones come in.
func TestIntegrationOldConnectionsSurvive(t *testing.T) {
	n := testnet.New(t)
	out := n.B.ServeTCP(t, ":0", testnet.Echo)
	in := n.A.ServeTCP(t, ":0", testnet.Echo)
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		inbound := func(i int) *net.TCPConn {
			from := net.TCPAddrFromAddrPort(netip.AddrPortFrom(testnet.Dest(f, i), 0))
			c, err := n.B.Dial(&net.Dialer{LocalAddr: from, Timeout: 5 * time.Second}, "tcp", netip.AddrPortFrom(n.A.Addr(f), in).String())
			if err != nil {
				t.Fatalf("connect to the host's own service: %v", err)
			}
			bound(t, c)
			return c.(*net.TCPConn)
		}
		outgoing := dialTCP(t, n.A, dest(f, 1, out))
		exchange(t, outgoing, "before")
		incoming := inbound(2)
		exchange(t, incoming, "before")

		d := n.A.Start(t, program.Path(t), append(routes(), "--drain", "0s")...)
		exchange(t, outgoing, "outgoing, with the route in place")
		exchange(t, incoming, "incoming, with the route in place")
		exchange(t, inbound(3), "a new one to the host's own service")
		n.A.Through(t, tun, 5, 5, func() {
			exchange(t, dialTCP(t, n.A, dest(f, 4, out)), "a new one through the TUN")
		})
		d.Stop()
		exchange(t, outgoing, "and after the route has gone again")
		exchange(t, incoming, "and after the route has gone again")
	})
}

// Outbound sockets leave by --interface or with --fwmark alike.
func TestIntegrationOutboundChoice(t *testing.T) {
	for _, args := range [][]string{{"--interface", testnet.Device}, {"--fwmark", "0x1234"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			n, d := startRouted(t, args...)
			tcp := n.B.ServeTCP(t, ":0", testnet.Echo)
			bothFamilies(t, func(t *testing.T, f testnet.Family) {
				udp := n.B.ServeUDP(t, wildcard(f), testnet.EchoUDP)
				n.A.Through(t, tun, 100, 100, func() {
					exchange(t, dialTCP(t, n.A, dest(f, 1, tcp)), "over tcp, a few bytes more than none")
					exchange(t, dialUDP(t, n.A, dest(f, 1, udp)), "over udp, a few bytes more than none")
				})
			})
			d.Stop()
		})
	}
}

// A strict reverse path filter on the way out is dealt with or spoken of.
func TestIntegrationReversePathFilter(t *testing.T) {
	n := testnet.New(t)
	n.A.Run(t, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf."+testnet.Device+".rp_filter=1")
	tcp := n.B.ServeTCP(t, ":0", testnet.Echo)
	cmd := n.A.Command(t.Context(), program.Path(t), append(routes(), "--drain", "0s")...)
	d := testnet.Launch(t, cmd)
	select {
	case <-d.Ready():
		exchange(t, dialTCP(t, n.A, dest(testnet.IPv4, 1, tcp)), "past the filter")
		d.Stop()
	case <-d.Done():
		if !strings.Contains(d.Stderr(), "rp_filter") {
			t.Errorf("ended without naming rp_filter:\n%s", d.Stderr())
		}
	case <-time.After(20 * time.Second):
		t.Error("neither ready nor ended after 20s")
	}
}
