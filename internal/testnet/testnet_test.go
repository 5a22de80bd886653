//go:build linux

package testnet_test

import (
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"netstackd/internal/testnet"
)

// The network by itself, before netstackd is in it.
func TestIntegrationNetwork(t *testing.T) {
	n := testnet.New(t)
	testnet.RequireTool(t, "ping")
	tcp := n.B.ServeTCP(t, ":0", testnet.Echo)
	for _, f := range testnet.Families() {
		t.Run(f.String(), func(t *testing.T) {
			n.A.Run(t, "ping", "-c1", "-W5", testnet.Dest(f, 7).String())

			c, err := n.A.DialTimeout("tcp", netip.AddrPortFrom(testnet.Dest(f, 9), tcp).String(), 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := io.WriteString(c, "hello"); err != nil {
				t.Fatal(err)
			}
			if err := c.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
				t.Errorf("echo: %q, %v", got, err)
			}
			udpEcho(t, n, f)
		})
	}
}

// udpEcho checks that the answer comes from the address that was asked.
func udpEcho(t *testing.T, n *testnet.Network, f testnet.Family) {
	wildcard := map[testnet.Family]string{testnet.IPv4: "0.0.0.0:0", testnet.IPv6: "[::]:0"}[f]
	port := n.B.ServeUDP(t, wildcard, testnet.EchoUDP)
	c, err := n.A.DialTimeout("udp", netip.AddrPortFrom(testnet.Dest(f, 300), port).String(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "hello" {
		t.Errorf("udp echo: %q, %v", buf[:n], err)
	}
}

func TestIntegrationDNS(t *testing.T) {
	n := testnet.New(t)
	testnet.RequireTool(t, "dig")
	n.B.ServeDNS(t, "0.0.0.0:53", map[string][]netip.Addr{"www.test": {testnet.Dest(testnet.IPv4, 0), testnet.Dest(testnet.IPv6, 0)}})
	for _, opt := range []string{"+notcp", "+tcp"} {
		if got := strings.TrimSpace(n.A.Run(t, "dig", "+short", "+tries=1", opt, "@10.78.0.5", "www.test", "A")); got != "10.78.0.1" {
			t.Errorf("dig %s: %q", opt, got)
		}
		if got := strings.TrimSpace(n.A.Run(t, "dig", "+short", "+tries=1", opt, "@10.78.0.5", "www.test", "AAAA")); got != "fd78::1" {
			t.Errorf("dig %s AAAA: %q", opt, got)
		}
	}
}
