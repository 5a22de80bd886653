//go:build linux

package netcfg_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"netstackd/internal/netcfg"
)

// serveUDP runs an echo on any address that answers as simple services do:
// with the kernel's choice of source. A connecting one ties its socket to its
// first client, and goes on there, as iperf3 does.
func serveUDP(t *testing.T, connecting bool) (port int) {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		c.Close()
		<-done
	})
	go func() {
		defer close(done)
		buf := make([]byte, 2048)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if connecting {
				connectUDP(c, from)
				c.Write(buf[:n])
				continue
			}
			c.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	return c.LocalAddr().(*net.UDPAddr).Port
}

// Clients in captured networks still get their answers from UDP services, from
// the address that they asked.
func TestIntegrationServices(t *testing.T) {
	if !isolate(t) {
		return
	}
	buildNetwork(t)
	run(t, "ip addr add 10.0.0.100/24 dev eth0") // a service may be asked on any
	for _, i := range []string{"all", "default", "eth0"} {
		setSysctl(t, "ipv4/conf/"+i+"/rp_filter", "1")
	}
	openTUN(t, tunName)
	before := hostState(t)
	cfg := testConfig()
	cfg.Routes = netcfg.DefaultRoutes()
	h := open(t, cfg)
	if !strings.Contains(run(t, "nft list ruleset"), "owner") {
		t.Fatal("no table with an owner")
	}
	for _, connecting := range []bool{false, true} {
		for _, c := range []struct{ client, service string }{
			{farAddr4, hostAddr4}, {farAddr4, "10.0.0.100"}, {farAddr6, hostAddr6}, {peerAddr4, hostAddr4},
		} {
			port := serveUDP(t, connecting)
			var client *net.UDPConn
			inPeer(t, func() (err error) {
				client, err = net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(c.client)},
					net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(c.service), uint16(port))))
				return err
			})
			defer client.Close()
			for _, text := range []string{"first", "second", "third"} {
				if _, err := client.Write([]byte(text)); err != nil {
					t.Fatal(err)
				}
				client.SetReadDeadline(time.Now().Add(timeout))
				buf := make([]byte, 100)
				n, err := client.Read(buf)
				if err != nil || string(buf[:n]) != text {
					t.Fatalf("%s asks %s, connecting %v: %q, %v", c.client, c.service, connecting, buf[:n], err)
				}
			}
		}
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	sameState(t, before, hostState(t))
}
