//go:build linux

package main_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"netstackd/internal/testnet"

	"golang.org/x/sys/unix"
)

// listenUDP opens an unconnected socket. It has no address of its own: one that
// the application binds to an address of the host is left alone by --route.
func listenUDP(t *testing.T, h *testnet.Host, f testnet.Family) *net.UDPConn {
	t.Helper()
	return h.ListenPacket(t, map[testnet.Family]string{testnet.IPv4: "udp4", testnet.IPv6: "udp6"}[f], wildcard(f))
}

// tellSource answers a datagram with the address that it came from.
func tellSource(d testnet.Datagram) { d.Reply([]byte(d.From.String())) }

// One application socket has one outbound port, whatever the destination, and
// anyone may answer it (RFC 4787, REQ-1 and REQ-8).
func TestIntegrationUDPMapping(t *testing.T) {
	n, _ := startRouted(t)
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		ports := []uint16{n.B.ServeUDP(t, wildcard(f), tellSource), n.B.ServeUDP(t, wildcard(f), tellSource)}
		app := listenUDP(t, n.A, f)
		_ = app.SetDeadline(time.Now().Add(10 * time.Second))
		var mapped []string
		before, _ := n.A.Counters(t, tun)
		for i, port := range append(ports, ports...) {
			to := netip.MustParseAddrPort(dest(f, i, port))
			seen, from := askSource(t, app, to)
			if from != to {
				t.Errorf("the answer of %v came from %v", to, from)
			}
			mapped = append(mapped, seen)
		}
		for _, m := range mapped {
			if m != mapped[0] {
				t.Fatalf("several outbound sockets for one application socket: %v", mapped)
			}
		}
		// A third party that was never asked.
		stranger := n.B.ListenPacket(t, "udp", dest(f, 30, 4444))
		if _, err := stranger.WriteToUDPAddrPort([]byte("unasked"), netip.MustParseAddrPort(mapped[0])); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 64)
		m, from, err := app.ReadFromUDPAddrPort(buf)
		if err != nil || string(buf[:m]) != "unasked" || unmapped(from).String() != dest(f, 30, 4444) {
			t.Errorf("from a third party: %q from %v, %v", buf[:m], from, err)
		}
		if after, _ := n.A.Counters(t, tun); after.RxPackets < before.RxPackets+5 {
			t.Errorf("%d packets out of the TUN, want 5 or more", after.RxPackets-before.RxPackets)
		}
		// Another application socket is another mapping.
		other := listenUDP(t, n.A, f)
		_ = other.SetDeadline(time.Now().Add(10 * time.Second))
		if seen, _ := askSource(t, other, netip.MustParseAddrPort(dest(f, 0, ports[0]))); seen == mapped[0] {
			t.Errorf("two application sockets share the outbound %s", seen)
		}
	})
}

// A gateway client keeps its source port, which IKE needs, where that is free. The
// next client with the same port gets another one, and so does a port that a server
// of this host could want.
func TestIntegrationUDPKeepsPort(t *testing.T) {
	lan := testnet.New(t).A
	n, _ := startGateway(t)
	n.A.Run(t, "ip", "link", "add", "lan", "type", "veth", "peer", "name", "lan", "netns", lan.Name)
	n.A.Run(t, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv6.conf.lan.accept_dad=0")
	lan.Run(t, "sysctl", "-qw", "net.ipv6.conf.lan.accept_dad=0")
	for _, h := range []struct {
		*testnet.Host
		addrs []string
	}{{n.A, []string{"10.66.0.1/24", "fd66::1/64"}}, {lan, []string{"10.66.0.2/24", "10.66.0.3/24", "fd66::2/64", "fd66::3/64"}}} {
		for _, a := range h.addrs {
			h.Run(t, "ip", "addr", "add", a, "dev", "lan")
		}
		h.Run(t, "ip", "link", "set", "lan", "up")
	}
	lan.Run(t, "ip", "route", "replace", testnet.DestPrefix(testnet.IPv4).String(), "via", "10.66.0.1")
	lan.Run(t, "ip", "route", "replace", testnet.DestPrefix(testnet.IPv6).String(), "via", "fd66::1")
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		server := netip.MustParseAddrPort(dest(f, 1, n.B.ServeUDP(t, wildcard(f), tellSource)))
		host := map[testnet.Family]string{testnet.IPv4: "10.66.0.%d:%d", testnet.IPv6: "[fd66::%d]:%d"}[f]
		for _, c := range []struct {
			client, port int
			keeps        bool
		}{{2, 4500, true}, {3, 4500, false}, {3, 500, true}, {2, 123, false}} {
			app := lan.ListenPacket(t, "udp", fmt.Sprintf(host, c.client, c.port))
			_ = app.SetDeadline(time.Now().Add(10 * time.Second))
			seen, _ := askSource(t, app, server)
			if from := netip.MustParseAddrPort(seen); (int(from.Port()) == c.port) != c.keeps {
				t.Errorf("port %d of client %d arrives as %d", c.port, c.client, from.Port())
			}
		}
	})
}

func askSource(t *testing.T, c *net.UDPConn, to netip.AddrPort) (seen string, from netip.AddrPort) {
	t.Helper()
	if _, err := c.WriteToUDPAddrPort([]byte("who am I?"), to); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 128)
	n, from, err := c.ReadFromUDPAddrPort(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n]), unmapped(from)
}

func unmapped(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// A host's port unreachable reaches the application as one.
func TestIntegrationUDPRefused(t *testing.T) {
	n, _ := startRouted(t)
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		n.A.Through(t, tun, 20, 20, func() { wantUDPRefused(t, dialUDP(t, n.A, dest(f, 1, 9))) })
	})
}

// Datagrams of every size that the protocols have go both ways.
func TestIntegrationUDPSizes(t *testing.T) {
	n, _ := startRouted(t)
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		port := n.B.ServeUDP(t, wildcard(f), testnet.EchoUDP)
		largest := map[testnet.Family]int{testnet.IPv4: 65507, testnet.IPv6: 65527}[f]
		c := listenUDP(t, n.A, f)
		to := netip.MustParseAddrPort(dest(f, 1, port))
		buf := make([]byte, 65536)
		for _, size := range []int{0, 1, 1452, 1472, 1473, 2000, 9000, 64000, 65000, largest} {
			payload := bytes.Repeat([]byte{byte(size)}, size)
			before, _ := n.A.Counters(t, tun)
			if _, err := c.WriteToUDPAddrPort(payload, to); err != nil {
				t.Fatal(err)
			}
			_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
			if m, _, err := c.ReadFromUDPAddrPort(buf); err != nil || !bytes.Equal(buf[:m], payload) {
				t.Errorf("%d bytes: %d back, %v", size, m, err)
			}
			if after, _ := n.A.Counters(t, tun); after.RxBytes < before.RxBytes+uint64(size) {
				t.Errorf("%d bytes: the echo did not come out of the TUN", size)
			}
		}
		connected := dialUDP(t, n.A, dest(f, 1, port))
		for range 2 { // an error of the first would be reported by the second
			exchange(t, connected, strings.Repeat("l", largest))
		}
	})
}

// Idle sessions end after --udp-timeout, and not those in use.
func TestIntegrationUDPTimeout(t *testing.T) {
	t.Parallel()
	n, _ := startRouted(t, "--udp-timeout", "1s")
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		port := n.B.ServeUDP(t, wildcard(f), tellSource)
		c := listenUDP(t, n.A, f)
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		to := netip.MustParseAddrPort(dest(f, 1, port))
		first, _ := askSource(t, c, to)

		tick := time.NewTicker(300 * time.Millisecond)
		defer tick.Stop()
		for range 8 {
			<-tick.C
			if again, _ := askSource(t, c, to); again != first {
				t.Fatalf("a session in use moved from %s to %s", first, again)
			}
		}
		began := time.Now()
		testnet.Eventually(t, 5*time.Second, "the outbound socket is closed", func() bool { return !bindsUDP(t, n.A, first) })
		if d := time.Since(began); d < 500*time.Millisecond {
			t.Errorf("expired %v after its last datagram", d)
		}
		if _, from := askSource(t, c, to); from != to {
			t.Errorf("after the timeout the answer came from %v", from)
		}
	})
}

// Those to port 53 end after 10 seconds.
func TestIntegrationUDPTimeoutDNS(t *testing.T) {
	t.Parallel()
	n, _ := startRouted(t)
	n.B.ServeUDP(t, "0.0.0.0:53", tellSource)
	c := listenUDP(t, n.A, testnet.IPv4)
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	seen, _ := askSource(t, c, netip.MustParseAddrPort(dest(testnet.IPv4, 1, 53)))
	began := time.Now()
	testnet.Eventually(t, 20*time.Second, "the outbound socket is closed", func() bool { return !bindsUDP(t, n.A, seen) })
	if d := time.Since(began); d < 9*time.Second {
		t.Errorf("expired after %v, want 10s", d)
	}
}

// bindsUDP reports whether the host has a UDP socket on the address's port.
func bindsUDP(t *testing.T, h *testnet.Host, addr string) bool {
	t.Helper()
	testnet.RequireTool(t, "ss")
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(h.Run(t, "ss", "-Huna", "sport", "=", ":"+port)) != ""
}

// An application that forbids fragmentation is told the path's MTU; one that
// doesn't gets its datagrams through.
func TestIntegrationUDPPathMTU(t *testing.T) {
	n, _ := startRouted(t, "--mtu", "1500")
	n.A.Run(t, "ip", "route", "add", testnet.Dest(testnet.IPv4, 40).String(), "via", n.B.IP4.String(), "mtu", "1400")
	n.A.Run(t, "ip", "route", "add", testnet.Dest(testnet.IPv6, 40).String(), "via", n.B.IP6.String(), "mtu", "1400")
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		port := n.B.ServeUDP(t, wildcard(f), testnet.EchoUDP)
		t.Run("fragments allowed", func(t *testing.T) {
			c := dialUDP(t, n.A, dest(f, 40, port))
			discover(t, c, f, unix.IP_PMTUDISC_DONT)
			// In IPv6 only the sender fragments, so the first may be lost while
			// the application's kernel learns the path's MTU.
			var err error
			for range 3 {
				_ = c.SetDeadline(time.Now().Add(time.Second))
				if err = tryExchange(c, strings.Repeat("f", 1440)); err == nil {
					break
				}
			}
			if err != nil {
				t.Error(err)
			}
		})
		t.Run("fragments forbidden", func(t *testing.T) {
			c := dialUDP(t, n.A, dest(f, 40, port))
			discover(t, c, f, unix.IP_PMTUDISC_DO)
			var err error
			for range 5 {
				if _, err = io.WriteString(c, strings.Repeat("d", 1440)); err == nil {
					_ = c.SetReadDeadline(time.Now().Add(time.Second))
					_, err = c.Read(make([]byte, 2000))
				}
				if errors.Is(err, syscall.EMSGSIZE) {
					break
				}
			}
			if !errors.Is(err, syscall.EMSGSIZE) {
				t.Fatalf("a datagram larger than the path: %v, want message too long", err)
			}
			if mtu := pathMTU(t, c, f); mtu != 1400 {
				t.Errorf("the application was told an MTU of %d, want 1400", mtu)
			}
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			exchange(t, c, strings.Repeat("d", 1300))
		})
	})
}

func discover(t *testing.T, c *net.UDPConn, f testnet.Family, mode int) {
	t.Helper()
	level, opt := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER
	if f == testnet.IPv6 {
		level, opt = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER
	}
	control(t, c, func(fd int) error { return unix.SetsockoptInt(fd, level, opt, mode) })
}

func pathMTU(t *testing.T, c *net.UDPConn, f testnet.Family) (mtu int) {
	t.Helper()
	level, opt := unix.IPPROTO_IP, unix.IP_MTU
	if f == testnet.IPv6 {
		level, opt = unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	control(t, c, func(fd int) (err error) {
		mtu, err = unix.GetsockoptInt(fd, level, opt)
		return err
	})
	return mtu
}

func control(t *testing.T, c syscall.Conn, fn func(fd int) error) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = fn(int(fd)) })
	if err := errors.Join(err, inner); err != nil {
		t.Fatal(err)
	}
}
