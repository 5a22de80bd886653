//go:build linux

package main_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"netstackd/internal/testnet"
)

// SOCKS5 commands and replies (RFC 1928).
const (
	socksConnect, socksBind, socksAssociate = 1, 2, 3
	socksOK, socksRefused                   = 0, 2
)

// socks5 asks a proxy, from a host, for host:port; the host may be a name. It
// returns the reply, the address in it, and the connection.
func socks5(t *testing.T, h *testnet.Host, proxy string, command byte, hostport string) (reply byte, bnd netip.AddrPort, c net.Conn) {
	t.Helper()
	c, err := h.DialTimeout("tcp", proxy, 5*time.Second)
	if err != nil {
		t.Fatalf("connect %s: %v", proxy, err)
	}
	bound(t, c)
	_, err = c.Write(append([]byte{5, 1, 0, 5, command, 0}, socksAddr(t, hostport)...))
	buf := make([]byte, 2+4+16+2)
	if err == nil {
		_, err = io.ReadFull(c, buf[:2+4])
	}
	size := 4
	if buf[5] == 4 {
		size = 16
	}
	if err == nil {
		_, err = io.ReadFull(c, buf[6:6+size+2])
	}
	if err != nil {
		t.Fatalf("%s for %s: %v", proxy, hostport, err)
	}
	a, _ := netip.AddrFromSlice(buf[6 : 6+size])
	return buf[3], netip.AddrPortFrom(a, binary.BigEndian.Uint16(buf[6+size:])), c
}

// socksAddr is host:port as SOCKS5 carries it.
func socksAddr(t *testing.T, hostport string) []byte {
	t.Helper()
	host, port, err := net.SplitHostPort(hostport)
	var n uint16
	if err == nil {
		_, err = fmt.Sscan(port, &n)
	}
	if err != nil {
		t.Fatal(err)
	}
	b := append([]byte{3, byte(len(host))}, host...)
	if a, err := netip.ParseAddr(host); err == nil && a.Is4() {
		b = append([]byte{1}, a.AsSlice()...)
	} else if err == nil && a.Zone() == "" {
		b = append([]byte{4}, a.AsSlice()...)
	}
	return binary.BigEndian.AppendUint16(b, n)
}

// files gives a host its own /etc/NAME, for the programs that start later.
func files(t *testing.T, h *testnet.Host, contents map[string]string) {
	t.Helper()
	dir := filepath.Join("/etc/netns", h.Name) // ip-netns(8) mounts what is there
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for name, text := range contents {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// Another host's client of a SOCKS listener reaches neither what listens on this
// host's loopback nor, by asking netstackd for netstackd, becomes this host's.
func TestIntegrationAccessRemoteClient(t *testing.T) {
	n := testnet.New(t)
	private := n.A.ServeTCP(t, "127.0.0.1:0", testnet.Greet("private"))
	n.A.ServeTCP(t, fmt.Sprintf("[::1]:%d", private), testnet.Greet("private"))
	public := n.B.ServeTCP(t, ":0", testnet.Echo)
	n.A.Run(t, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	n.B.Run(t, "ip", "route", "add", "198.18.0.0/30", "via", n.A.IP4.String())
	for _, c := range []struct {
		name    string
		args    []string
		proxies []string
	}{
		{"without gateway", nil, []string{"10.77.0.1:1080"}},
		{"gateway", []string{"--gateway"}, []string{"10.77.0.1:1080", "198.18.0.2:1080"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := n.A.Start(t, program.Path(t), append([]string{"--drain", "0s", "--log-level", "debug", "--socks", "0.0.0.0:1080", "--allow-open"}, c.args...)...)
			defer d.Stop()
			for _, proxy := range c.proxies {
				if r, _, conn := socks5(t, n.B, proxy, socksConnect, dest(testnet.IPv4, 1, public)); r != socksOK {
					t.Errorf("%s: a public destination: reply %d", proxy, r)
				} else {
					exchange(t, conn, "public")
				}
				for _, host := range []string{"127.0.0.1", "[::1]", "0.0.0.0", "[::]", "[::ffff:127.0.0.1]", "localhost", "127.1"} {
					for _, command := range []byte{socksConnect, socksBind} {
						if command == socksBind && (host == "0.0.0.0" || host == "[::]") {
							continue // any peer
						}
						if r, _, _ := socks5(t, n.B, proxy, command, fmt.Sprintf("%s:%d", host, private)); r != socksRefused {
							t.Errorf("%s: command %d for %s: reply %d, want %d", proxy, command, host, r, socksRefused)
						}
					}
				}
				for _, ourselves := range []string{"198.18.0.2:1080", "[fd19:8::2]:1080", "10.77.0.1:1080", "127.0.0.1:1080"} {
					if r, _, _ := socks5(t, n.B, proxy, socksConnect, ourselves); r != socksRefused {
						t.Errorf("%s: CONNECT %s, which is netstackd: reply %d, want %d", proxy, ourselves, r, socksRefused)
					}
				}
			}
			// The same for this host's own client, but for loopback, which is its own.
			for want, destination := range map[byte]string{socksOK: fmt.Sprintf("127.0.0.1:%d", private), socksRefused: "198.18.0.2:1080"} {
				for _, proxy := range []string{"127.0.0.1:1080", "198.18.0.2:1080"} {
					if r, _, _ := socks5(t, n.A, proxy, socksConnect, destination); r != want {
						t.Errorf("this host's client of %s: CONNECT %s: reply %d, want %d", proxy, destination, r, want)
					}
				}
			}
			for _, why := range []string{"loopback is for its own programs", "the destination is netstackd itself"} {
				if !strings.Contains(d.Stderr(), why) {
					t.Errorf("the log does not say %q", why)
				}
			}
		})
	}
}

// Nor does it by a name that an upstream on this host looks up. This host's own
// client may.
func TestIntegrationAccessNameByUpstreamHere(t *testing.T) {
	testnet.RequireTool(t, "microsocks")
	n := testnet.New(t)
	private := n.A.ServeTCP(t, "127.0.0.1:0", testnet.Greet("private"))
	public := n.B.ServeTCP(t, ":0", testnet.Echo)
	files(t, n.A, map[string]string{"hosts": "127.0.0.1 inside.test\n10.77.0.2 outside.test\n10.77.0.2 both.test\n127.0.0.1 both.test\n"})
	startMicrosocks(t, n.A, "1081", "-i", "127.0.0.1")
	d := n.A.Start(t, program.Path(t), "--drain", "0s", "--socks", "0.0.0.0:1080", "--allow-open", "--via", "socks5://127.0.0.1:1081")
	defer d.Stop()
	const proxy = "10.77.0.1:1080"
	for _, host := range []string{"inside.test", "INSIDE.test.", "both.test", "localhost"} {
		if r, _, _ := socks5(t, n.B, proxy, socksConnect, fmt.Sprintf("%s:%d", host, private)); r != socksRefused {
			t.Errorf("CONNECT %s: reply %d, want %d", host, r, socksRefused)
		}
	}
	for from, hostport := range map[*testnet.Host]string{
		n.B: fmt.Sprintf("outside.test:%d", public),
		n.A: fmt.Sprintf("inside.test:%d", private),
	} {
		if r, _, _ := socks5(t, from, proxy, socksConnect, hostport); r != socksOK {
			t.Errorf("CONNECT %s: reply %d", hostport, r)
		}
	}
}

// With socks5h no name is looked up here, not even to judge it; one that needs no
// lookup is refused nevertheless.
func TestIntegrationAccessNameByUpstreamOnly(t *testing.T) {
	testnet.RequireTool(t, "microsocks")
	n := testnet.New(t)
	private := n.A.ServeTCP(t, "127.0.0.1:0", testnet.Greet("private"))
	files(t, n.A, map[string]string{"hosts": "127.0.0.1 inside.test\n"})
	startMicrosocks(t, n.A, "1081", "-i", "127.0.0.1")
	d := n.A.Start(t, program.Path(t), "--drain", "0s", "--socks", "0.0.0.0:1080", "--allow-open", "--via", "socks5h://127.0.0.1:1081")
	defer d.Stop()
	for host, want := range map[string]byte{"inside.test": socksOK, "localhost": socksRefused} {
		if r, _, _ := socks5(t, n.B, "10.77.0.1:1080", socksConnect, fmt.Sprintf("%s:%d", host, private)); r != want {
			t.Errorf("CONNECT %s: reply %d, want %d", host, r, want)
		}
	}
}

// A dead IPv6 address costs a fraction of a second, also under rules.
func TestIntegrationAccessHappyEyeballs(t *testing.T) {
	testnet.RequireTool(t, "nft")
	n := testnet.New(t)
	// The address is preferred (RFC 6724): global, as its source is.
	n.A.Run(t, "ip", "addr", "add", "2001:db8:77::1/64", "dev", testnet.Device, "nodad")
	n.A.Run(t, "ip", "route", "add", "2001:db8:78::/64", "via", n.B.IP6.String())
	n.B.Run(t, "nft", "add table ip6 dead; add chain ip6 dead in { type filter hook prerouting priority -300; };"+
		" add rule ip6 dead in ip6 daddr 2001:db8:78::/64 drop")
	files(t, n.A, map[string]string{"hosts": "2001:db8:78::1 dead6.test\n10.77.0.2 dead6.test\n"})
	port := n.B.ServeTCP(t, ":0", testnet.Echo)
	for _, args := range [][]string{nil, {"--gateway"}} {
		d := n.A.Start(t, program.Path(t), append([]string{"--drain", "0s"}, args...)...)
		began := time.Now()
		r, _, c := socks5(t, n.A, "127.0.0.1:1080", socksConnect, fmt.Sprintf("dead6.test:%d", port))
		took := time.Since(began)
		t.Logf("%v: connected after %v", args, took)
		if r != socksOK || took > time.Second {
			t.Errorf("%v: reply %d after %v", args, r, took)
		} else {
			exchange(t, c, "by the other address")
		}
		d.Stop()
	}
}

// A sandbox that may not reach local networks does not reach them by a NAT64 of
// the network, nor by an address with a zone.
func TestIntegrationAccessBlockLAN(t *testing.T) {
	n := testnet.New(t)
	const prefix = "2001:db8:64::"
	n.A.Run(t, "ip", "addr", "add", "2001:db8:77::1/64", "dev", testnet.Device, "nodad")
	n.B.Run(t, "ip", "addr", "add", "2001:db8:77::2/64", "dev", testnet.Device, "nodad")
	n.A.Run(t, "ip", "route", "add", prefix+"/96", "via", "2001:db8:77::2")
	n.B.Run(t, "ip", "route", "add", "local", prefix+"/96", "dev", "lo")
	n.B.ServeDNS(t, "10.77.0.2:53", map[string][]netip.Addr{
		"ipv4only.arpa": {netip.MustParseAddr(prefix + "192.0.0.170"), netip.MustParseAddr(prefix + "192.0.0.171")},
	})
	files(t, n.A, map[string]string{"resolv.conf": "nameserver 10.77.0.2\n"})
	port := n.B.ServeTCP(t, ":0", testnet.Echo)
	cmd := execAs(t, n.A, "0666", "--block-lan", "--drain", "0s", "--socks", "127.0.0.1:1080", "--", "sh", "-c", "echo netstackd: ready >&2; exec cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	d := testnet.StartCommand(t, cmd)
	for host, want := range map[string]byte{
		prefix + "203.0.113.1": socksOK,
		prefix + "10.78.0.1":   socksRefused,
		"64:ff9b::10.78.0.1":   socksRefused,
		"2001:db8:77::2":       socksRefused, // on a link of this host
		"2001:db8:77::2%eth0":  socksRefused,
		"fe80::1%eth0":         socksRefused,
		"::ffff:10.77.0.2":     socksRefused,
		"2002:0a4e:0001::1":    socksRefused, // 6to4 of 10.78.0.1
	} {
		if r, _, _ := socks5(t, n.A, "127.0.0.1:1080", socksConnect, fmt.Sprintf("[%s]:%d", host, port)); r != want {
			t.Errorf("%s: reply %d, want %d", host, r, want)
		}
	}
	stdin.Close() // and the command ends
	if status := d.Wait(10 * time.Second); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

// One client of a gateway does not take every flow.
func TestIntegrationAccessGatewayShare(t *testing.T) {
	testnet.RequireTool(t, "nft")
	n := testnet.New(t)
	port := n.B.ServeTCP(t, ":0", testnet.Echo)
	// B is the client, and the server too: what it sends to the subnet goes to A,
	// and what A sends there comes to its server.
	const subnet = "203.0.113.0/24"
	n.A.Run(t, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	n.A.Run(t, "ip", "route", "add", subnet, "via", n.B.IP4.String())
	n.B.Run(t, "ip", "route", "add", subnet, "via", n.A.IP4.String())
	n.B.Run(t, "nft", "add table ip nat; add chain ip nat pre { type nat hook prerouting priority -100; };"+
		" add rule ip nat pre ip daddr "+subnet+" dnat to "+n.B.IP4.String())
	n.A.Start(t, program.Path(t), append(routes(), "--drain", "0s", "--route", subnet, "--gateway", "--max-flows", "8")...)
	client := func() error {
		c, err := n.B.DialTimeout("tcp", fmt.Sprintf("203.0.113.1:%d", port), 2*time.Second)
		if err != nil {
			return err
		}
		bound(t, c)
		return tryExchange(c, "of the gateway's client")
	}
	carried := 0
	for carried < 8 && client() == nil {
		carried++
	}
	if carried != 4 {
		t.Errorf("the client has %d flows of 8, want half", carried)
	}
	exchange(t, dialTCP(t, n.A, dest(testnet.IPv4, 1, port)), "of this host")
}
