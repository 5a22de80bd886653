//go:build linux

package netcfg_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"netstackd/internal/netcfg"
	"netstackd/internal/testnet"
)

func TestIntegrationExcludeCgroup(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	mount := strings.TrimSpace(run(t, "findmnt -n -o TARGET -t cgroup2 --first-only"))
	dir, err := os.MkdirTemp(mount, "nsnc-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	group, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer group.Close()
	say := func(dst, text string) {
		t.Helper()
		cmd := exec.Command("bash", "-c", "echo -n '"+text+"' > /dev/udp/"+dst+"/5000")
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	tun := openTUN(t, tunName)
	before := hostState(t)
	peer := listenPeer(t, 5000)
	cfg := testConfig()
	cfg.Routes = netcfg.DefaultRoutes()
	for _, path := range []string{dir, filepath.Base(dir), "/" + filepath.Base(dir)} {
		cfg.ExcludeCgroups = []string{path}
		h := open(t, cfg)
		for i, dst := range far {
			say(dst, "excluded "+dst)
			if from := peer.expect(t, "excluded "+dst); from.Addr() != netip.MustParseAddr([]string{hostAddr4, hostAddr6}[i]) {
				t.Errorf("source %s", from)
			}
			send(t, dst, 6000, "captured", nil)
			tun.expect(t, dst, 6000)
		}
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
	}
	sameState(t, before, hostState(t))

	cfg.ExcludeCgroups = []string{"nsnc-nosuch"}
	h, err := netcfg.Open(t.Context(), tunName, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Capture(t.Context()); err == nil || !strings.Contains(err.Error(), "cgroup nsnc-nosuch") {
		t.Errorf("no such cgroup: %v", err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	sameState(t, before, hostState(t))
}

// udpPacket is an IPv4 datagram without a UDP checksum.
func udpPacket(src, dst netip.AddrPort, payload string) []byte {
	b := make([]byte, 28, 28+len(payload))
	b[0], b[8], b[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(b[2:], uint16(28+len(payload)))
	copy(b[12:], src.Addr().AsSlice())
	copy(b[16:], dst.Addr().AsSlice())
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum+sum>>16))
	binary.BigEndian.PutUint16(b[20:], src.Port())
	binary.BigEndian.PutUint16(b[22:], dst.Port())
	binary.BigEndian.PutUint16(b[24:], uint16(8+len(payload)))
	return append(b, payload...)
}

// Other hosts' traffic is captured with --gateway and only then, and answers
// find their way back whatever rp_filter says.
func TestIntegrationGateway(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	// The LAN is the peer's 192.168.5.0/24, behind it as a routed subnet.
	run(t, "ip -n nsnc-peer addr add 192.168.5.9/32 dev lo")
	run(t, "ip -n nsnc-peer addr add fd00:5::9/128 dev lo nodad")
	run(t, "ip route add 192.168.5.0/24 via 10.0.0.2")
	run(t, "ip -6 route add fd00:5::/64 via fd00:1::2")
	run(t, "ip -n nsnc-peer route add 198.51.100.0/24 via 10.0.0.1 src 192.168.5.9")
	run(t, "ip -n nsnc-peer -6 route add 2001:db8:99::/64 via fd00:1::1 src fd00:5::9")
	run(t, "ip -n nsnc-peer -6 route add default via fd00:1::1")
	setSysctl(t, "ipv4/ip_forward", "1")
	setSysctl(t, "ipv6/conf/all/forwarding", "1")
	for _, rpFilter := range []string{"0", "1"} {
		for _, i := range []string{"all", "default"} {
			setSysctl(t, "ipv4/conf/"+i+"/rp_filter", rpFilter)
		}
		tun := openTUN(t, tunName)
		cfg := testConfig()
		cfg.Routes = netcfg.DefaultRoutes()
		cfg.Excludes = prefixes("192.168.5.0/24") // or rp_filter=1 would drop what comes from there
		cfg.IncludeUIDs = []netcfg.UIDRange{{4000, 4000}}
		cfg.Gateway = true
		h := open(t, cfg)
		var lan *net.UDPConn
		inPeer(t, func() (err error) {
			lan, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP("192.168.5.9"), Port: 7000})
			if err != nil {
				return err
			}
			_, err = lan.WriteTo([]byte("forwarded"), &net.UDPAddr{IP: net.ParseIP("198.51.100.1"), Port: 53})
			if err != nil {
				return err
			}
			c, err := net.Dial("udp", "[2001:db8:99::1]:53")
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write([]byte("forwarded"))
			return err
		})
		if p := tun.expect(t, "198.51.100.1", 53); p.src != netip.MustParseAddr("192.168.5.9") {
			t.Errorf("source %s", p.src)
		}
		tun.expect(t, "2001:db8:99::1", 53)
		answer := udpPacket(netip.MustParseAddrPort("198.51.100.1:53"), netip.MustParseAddrPort("192.168.5.9:7000"), "answer")
		if _, err := tun.f.Write(answer); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		lan.SetReadDeadline(time.Now().Add(timeout))
		if n, _, err := lan.ReadFrom(buf); err != nil || string(buf[:n]) != "answer" {
			t.Errorf("rp_filter=%s: answer %q, %v", rpFilter, buf[:n], err)
		}
		lan.Close()
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
		tun.f.Close()
	}
}
