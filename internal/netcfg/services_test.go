//go:build linux

package netcfg_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netstackd/internal/netcfg"
	"netstackd/internal/testnet"
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
	if !testnet.Isolate(t) {
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

// askUDP sends questions from a socket of the peer, and expects each to come
// back. A question that is lost in a full socket is sent again, as clients do.
func askUDP(t *testing.T, c net.Conn, questions ...string) {
	t.Helper()
	const tries, wait = 10, 200 * time.Millisecond
	buf := make([]byte, 100)
	for _, text := range questions {
		for try := 1; ; try++ {
			if _, err := c.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
			c.SetReadDeadline(time.Now().Add(wait))
			n, err := c.Read(buf)
			for err == nil && string(buf[:n]) != text { // a late answer to an earlier one
				n, err = c.Read(buf)
			}
			if err == nil {
				break
			}
			if try == tries {
				t.Fatalf("%v asks %v %q: %v", c.LocalAddr(), c.RemoteAddr(), text, err)
			}
		}
	}
}

func dialPeer(t *testing.T, port int) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	inPeer(t, func() (err error) {
		c, err = net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(farAddr4)}, &net.UDPAddr{IP: net.ParseIP(hostAddr4), Port: port})
		return err
	})
	t.Cleanup(func() { c.Close() })
	return c
}

// Questions with forged sources fill no table for so long that a client gets no
// answer: neither one that comes during the flood nor one from before it.
func TestIntegrationServicesFlood(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	for _, i := range []string{"all", "default", "eth0"} {
		setSysctl(t, "ipv4/conf/"+i+"/rp_filter", "1")
	}
	openTUN(t, tunName)
	cfg := testConfig()
	cfg.Routes = netcfg.DefaultRoutes()
	h := open(t, cfg)
	defer h.Close()

	port := serveUDP(t, false)
	early := dialPeer(t, port)
	askUDP(t, early, "one", "two")
	tied := dialPeer(t, serveUDP(t, true))
	askUDP(t, tied, "one", "two")
	for range 2 {
		inPeer(t, func() error { return forgeUDP(netip.MustParseAddr(hostAddr4), port, 128_000) })
		askUDP(t, early, "three", "four")
		askUDP(t, tied, "three", "four")
		late := dialPeer(t, port)
		askUDP(t, late, "one", "two", "three")
	}
}

// forgeUDP sends n questions, each from another address outside.
func forgeUDP(dst netip.Addr, port, n int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	to := &unix.SockaddrInet4{Addr: dst.As4()}
	b := make([]byte, 20+8+4)
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[16:20], to.Addr[:])
	binary.BigEndian.PutUint16(b[20:], 4000)
	binary.BigEndian.PutUint16(b[22:], uint16(port))
	binary.BigEndian.PutUint16(b[24:], 8+4)
	for i := range n {
		binary.BigEndian.PutUint32(b[12:], 100<<24|64<<16|uint32(i))
		if err := unix.Sendto(fd, b, 0, to); err != nil {
			return err
		}
	}
	return nil
}
