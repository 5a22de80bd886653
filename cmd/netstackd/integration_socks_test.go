//go:build linux

package main_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"netstackd/internal/testnet"
)

// Both listeners serve CONNECT, by address and by name, to both families;
// the in-stack one through the TUN.
func TestIntegrationSOCKS(t *testing.T) {
	testnet.RequireTool(t, "curl")
	n, _ := start(t)
	port := n.B.ServeHTTP(t, ":0", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		testnet.PeerPage(w, r)
		_, _ = io.WriteString(w, strings.Repeat("x", 1<<20))
	}))
	for _, proxy := range []struct {
		addr    string
		inStack bool
	}{
		{"127.0.0.1:1080", false},
		{"198.18.0.2:1080", true},
		{"[fd19:8::2]:1080", true},
	} {
		for _, f := range testnet.Families() {
			t.Run(fmt.Sprintf("%s/%v", proxy.addr, f), func(t *testing.T) {
				fetch := func() {
					out := n.A.Run(t, "curl", "-sS", "--max-time", "10", "--socks5", proxy.addr, "http://"+dest(f, 1, port)+"/")
					if want := "hello " + n.A.Addr(f).String() + "\n"; !strings.HasPrefix(out, want) || len(out) != len(want)+1<<20 {
						t.Errorf("got %d bytes starting %.40q, want %q and 1 MiB", len(out), out, want)
					}
				}
				if proxy.inStack {
					n.A.Through(t, tun, 300, 1<<20, fetch)
				} else {
					fetch()
				}
			})
		}
	}
	t.Run("refused", func(t *testing.T) {
		for _, proxy := range []string{"127.0.0.1:1080", "198.18.0.2:1080"} {
			out, err := n.A.Output("curl", "-sS", "--max-time", "10", "--socks5", proxy, "http://"+dest(testnet.IPv4, 1, 1)+"/")
			if err == nil || !strings.Contains(out, "(5)") && !strings.Contains(strings.ToLower(out), "refused") {
				t.Errorf("%s: a closed port gave %v: %s", proxy, err, out)
			}
		}
	})
}

// Every port of the stack's address but the SOCKS one looks closed.
func TestIntegrationStackPortsClosed(t *testing.T) {
	n, _ := start(t)
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		n.A.Through(t, tun, 100, 100, func() {
			for _, port := range []uint16{1, 22, 80, 1079, 1081, 65535} {
				addr := netip.AddrPortFrom(stackAddr(f), port).String()
				began := time.Now()
				if c, err := n.A.DialTimeout("tcp", addr, 5*time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("tcp %s: %v, %v, want connection refused", addr, c, err)
				}
				if d := time.Since(began); d > time.Second {
					t.Errorf("tcp %s: refused after %v", addr, d)
				}
				u := dialUDP(t, n.A, addr)
				wantUDPRefused(t, u)
			}
		})
	})
}

// wantUDPRefused sends until the port unreachable has come back: within a
// second or so, and not more than a few datagrams.
func wantUDPRefused(t *testing.T, c interface {
	io.ReadWriter
	SetReadDeadline(time.Time) error
}) {
	t.Helper()
	var err error
	for range 3 {
		if _, err = io.WriteString(c, "anyone?"); err == nil {
			_ = c.SetReadDeadline(time.Now().Add(time.Second))
			_, err = c.Read(make([]byte, 16))
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			return
		}
	}
	t.Errorf("udp: %v, want connection refused", err)
}

// The in-stack listener is for this host's own sources: another one that can
// route to the stack's address gets nothing from it.
func TestIntegrationStackSOCKSIsPrivate(t *testing.T) {
	n, _ := start(t)
	n.A.Run(t, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	n.B.Run(t, "ip", "route", "add", "198.18.0.0/30", "via", n.A.IP4.String())
	n.B.Run(t, "ip", "route", "add", "fd19:8::/126", "via", n.A.IP6.String())
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		c, err := n.B.DialTimeout("tcp", netip.AddrPortFrom(stackAddr(f), 1080).String(), 2*time.Second)
		if err != nil {
			return // refused or silent: both keep it out
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(3 * time.Second))
		_, _ = c.Write([]byte{5, 1, 0})
		if got, err := io.ReadAll(io.LimitReader(c, 2)); len(got) > 0 {
			t.Errorf("another host got %v, %v from the in-stack SOCKS", got, err)
		}
	})
}

// With --socks-egress stack the host listener's connections come out of the
// TUN, for the host to forward.
func TestIntegrationSOCKSEgressStack(t *testing.T) {
	testnet.RequireTool(t, "curl", "nft")
	n := testnet.New(t)
	port := n.B.ServeHTTP(t, ":0", http.HandlerFunc(testnet.PeerPage))
	t.Run("without forwarding", func(t *testing.T) {
		d := n.A.Start(t, program.Path(t), "--socks-egress", "stack")
		if !strings.Contains(d.Stderr(), "forward") {
			t.Errorf("nothing is said of missing forwarding:\n%s", d.Stderr())
		}
		d.Stop()
	})
	n.A.Run(t, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	n.A.Run(t, "nft", "add table inet nat; add chain inet nat post { type nat hook postrouting priority 100; };"+
		" add rule inet nat post oifname "+testnet.Device+" masquerade")
	d := n.A.Start(t, program.Path(t), "--socks-egress", "stack")
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		n.A.Through(t, tun, 100, 100, func() {
			out := n.A.Run(t, "curl", "-sS", "--max-time", "10", "--socks5", "127.0.0.1:1080",
				"http://"+netip.AddrPortFrom(n.B.Addr(f), port).String()+"/")
			if want := "hello " + n.A.Addr(f).String() + "\n"; out != want {
				t.Errorf("got %q, want %q", out, want)
			}
		})
	})
	d.Stop()
}

// A name is looked up past the TUN, which captures port 53, and a dead IPv6 address
// of it costs a quarter of a second.
func TestIntegrationSOCKSEgressStackNames(t *testing.T) {
	testnet.RequireTool(t, "nft")
	n := testnet.New(t)
	n.A.Run(t, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	n.A.Run(t, "nft", "add table inet nat; add chain inet nat post { type nat hook postrouting priority 100; };"+
		" add rule inet nat post oifname "+testnet.Device+" masquerade")
	// Before an IPv4 address, resolvers put an IPv6 address of the Internet (RFC 6724 §2.1).
	n.A.Run(t, "ip", "addr", "add", "2001:db8:77::1/64", "dev", testnet.Device, "nodad")
	live, dead := testnet.Dest(testnet.IPv4, 1), netip.MustParseAddr("2001:db8:78::1")
	n.A.Run(t, "ip", "route", "add", dead.String(), "via", n.B.IP6.String())
	n.B.Run(t, "ip", "route", "add", "blackhole", dead.String())
	nameserver := testnet.Dest(testnet.IPv4, 53)
	n.B.ServeDNS(t, nameserver.String()+":53", map[string][]netip.Addr{"www.test": {dead, live}})
	files(t, n.A, map[string]string{"resolv.conf": "nameserver " + nameserver.String() + "\n"})
	port := n.B.ServeTCP(t, ":0", testnet.Echo)
	n.A.Start(t, program.Path(t), "--socks-egress", "stack", "--route", nameserver.String()+"/32", "--drain", "0s")
	n.A.Through(t, tun, 2, 2, func() {
		began := time.Now()
		r, _, c := socks5(t, n.A, "127.0.0.1:1080", socksConnect, fmt.Sprintf("www.test:%d", port))
		if r != socksOK {
			t.Fatalf("reply %d", r)
		}
		took := time.Since(began)
		exchange(t, c, "by name")
		if t.Logf("connected after %v", took); took > 2*time.Second {
			t.Errorf("connected after %v, want 250 ms and a little", took)
		}
	})
}

// A BIND by this host's client listens where another host can come: for zeros
// on the address that this host has outside.
func TestIntegrationBind(t *testing.T) {
	n, _ := start(t)
	n.A.Run(t, "ip", "route", "add", "default", "via", n.B.IP4.String())
	for _, proxy := range []string{"127.0.0.1:1080", "198.18.0.2:1080"} {
		for _, expected := range []string{"0.0.0.0:0", n.B.IP4.String() + ":20"} {
			t.Run(proxy+"/"+expected, func(t *testing.T) {
				r, bnd, c := socks5(t, n.A, proxy, socksBind, expected)
				if r != socksOK || bnd.Addr() != n.A.IP4 {
					t.Fatalf("reply %d, listens on %v, want %v", r, bnd, n.A.IP4)
				}
				peer, err := n.B.DialTimeout("tcp", bnd.String(), 5*time.Second)
				if err != nil {
					t.Fatal(err)
				}
				bound(t, peer)
				second := make([]byte, 4+4+2)
				if _, err := io.ReadFull(c, second); err != nil {
					t.Fatalf("the second reply: %v", err)
				}
				if from := netip.AddrFrom4([4]byte(second[4:8])); second[1] != socksOK || from != n.B.IP4 {
					t.Errorf("second reply %d, from %v, want %v", second[1], from, n.B.IP4)
				}
				const payload = "from outside"
				if _, err := io.WriteString(peer, payload); err != nil {
					t.Fatal(err)
				}
				got := make([]byte, len(payload))
				if _, err := io.ReadFull(c, got); err != nil || string(got) != payload {
					t.Errorf("got %q, %v", got, err)
				}
			})
		}
	}
}
