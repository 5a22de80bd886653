//go:build linux

package netcfg_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"netstackd/internal/netcfg"
	"netstackd/internal/testnet"
)

// pathMTU is what a new socket, connected to dst, thinks the path's MTU is. A
// TCP one is still connecting.
func pathMTU(t *testing.T, dst string, kind int) int {
	t.Helper()
	fd := connected(t, dst, kind)
	defer unix.Close(fd)
	level, opt := unix.IPPROTO_IP, unix.IP_MTU
	if netip.MustParseAddr(dst).Is6() {
		level, opt = unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	mtu, err := unix.GetsockoptInt(fd, level, opt)
	if err != nil {
		t.Fatalf("MTU to %s: %v", dst, err)
	}
	return mtu
}

// connected is a socket that doesn't block, to port 5000.
func connected(t *testing.T, dst string, kind int) (fd int) {
	t.Helper()
	addr, domain := netip.MustParseAddr(dst), unix.AF_INET
	var to unix.Sockaddr = &unix.SockaddrInet4{Port: 5000}
	if addr.Is4() {
		to.(*unix.SockaddrInet4).Addr = addr.As4()
	} else {
		to, domain = &unix.SockaddrInet6{Port: 5000, Addr: addr.As16()}, unix.AF_INET6
	}
	fd, err := unix.Socket(domain, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Connect(fd, to)
	}
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		t.Fatalf("connect to %s: %v", dst, err)
	}
	return fd
}

func wantMTU(t *testing.T, dst string, kind, want int) {
	t.Helper()
	if got := pathMTU(t, dst, kind); got != want {
		t.Errorf("the MTU to %s is %d to a socket of type %d, want %d\n%s", dst, got, kind, want, hostRouting(t))
	}
}

// bigTUN is a configuration whose TUN takes more than any path.
func bigTUN() netcfg.Config {
	cfg := testConfig()
	cfg.MTU = 65000
	cfg.Routes = netcfg.DefaultRoutes()
	return cfg
}

// To TCP the TUN's MTU counts, to all else that of the path beyond it.
func TestIntegrationPathMTU(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	openTUN(t, tunName)
	before := hostState(t)
	cfg := bigTUN()
	cfg.IncludeUIDs = []netcfg.UIDRange{{0, 0}, {7, 9}}
	h := open(t, cfg)
	for i, dst := range far {
		wantMTU(t, dst, unix.SOCK_STREAM, 65000)
		wantMTU(t, dst, unix.SOCK_DGRAM, 1500)
		wantMTU(t, near[i], unix.SOCK_DGRAM, 1500)
		wantMTU(t, cfg.Addresses[i].Addr().Next().String(), unix.SOCK_STREAM, 65000)
		forbidFragments(t, dst)
		// The kernel fragments what the application doesn't forbid it to.
		c, err := net.Dial("udp", net.JoinHostPort(dst, "5000"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for range 3 {
			if _, err := c.Write(make([]byte, 9000)); err != nil {
				t.Errorf("9000 bytes to %s: %v", dst, err)
			}
		}
	}
	if err := h.Release(); err != nil {
		t.Fatal(err)
	}
	for _, dst := range far {
		wantMTU(t, dst, unix.SOCK_STREAM, 1500)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	sameState(t, before, hostState(t))
}

// forbidFragments checks that sockets that don't want fragments, connected or
// not, are told at once what is too big.
func forbidFragments(t *testing.T, dst string) {
	t.Helper()
	level, opt := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER
	if netip.MustParseAddr(dst).Is6() {
		level, opt = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER
	}
	send(t, dst, 5000, "fits", func(fd int) error { return unix.SetsockoptInt(fd, level, opt, unix.IP_PMTUDISC_DO) })
	fd := connected(t, dst, unix.SOCK_DGRAM)
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, level, opt, unix.IP_PMTUDISC_DO); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(fd, make([]byte, 4000)); !errors.Is(err, unix.EMSGSIZE) {
		t.Errorf("4000 bytes to %s without fragments: %v, want %v", dst, err, unix.EMSGSIZE)
	}
}

// Paths change: other interfaces, other MTUs, routes with one of their own.
func TestIntegrationPathMTUFollows(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	for _, c := range []string{
		"ip link add eth1 mtu 1300 type veth peer name eth1 netns nsnc-peer",
		"ip -n nsnc-peer link set eth1 up",
		"ip link set eth1 addrgenmode none up",
		"ip addr add 172.20.0.1/24 dev eth1",
		"ip addr add fd00:20::1/64 dev eth1 nodad",
	} {
		run(t, c)
	}
	openTUN(t, tunName)
	cfg := bigTUN()
	cfg.Routes = append(cfg.Routes, prefixes("192.0.2.0/24", "2001:db8:2::/48")...)
	h := open(t, cfg)
	watch(t, h)
	becomes := func(dst string, want int) {
		t.Helper()
		eventually(t, fmt.Sprintf("the MTU to %s is %d", dst, want), func() bool { return pathMTU(t, dst, unix.SOCK_DGRAM) == want })
		wantMTU(t, dst, unix.SOCK_STREAM, 65000)
	}
	for i, f := range []string{"ip", "ip -6"} {
		gateway := []string{"10.0.0.2", "fd00:1::2"}[i]
		prefix := []string{"192.0.2.0/24", "2001:db8:2::/48"}[i]
		inPrefix := []string{"192.0.2.9", "2001:db8:2::9"}[i]
		becomes(far[i], 1500)
		becomes(inPrefix, 1500)
		run(t, f+" route add "+prefix+" dev eth1")
		becomes(inPrefix, 1300)
		becomes(far[i], 1500)
		run(t, f+" route replace default via "+gateway+" mtu 1400")
		becomes(far[i], 1400)
		run(t, f+" route del default")
		becomes(far[i], 1500) // nothing is known
		run(t, f+" route add default via "+gateway)
	}
	run(t, "ip link set eth0 mtu 9000")
	becomes(farAddr4, 9000)
	becomes(farAddr6, 9000)
	run(t, "ip link set eth0 mtu 1280")
	becomes(farAddr4, 1280)
	becomes(farAddr6, 1280)
	// Another way out that is no default route of the main table.
	run(t, "ip route add default dev eth1 table 77")
	run(t, "ip rule add pref 30000 lookup 77")
	becomes(farAddr4, 1300)
	// IPv6 has a least MTU.
	run(t, "ip -6 route replace default via fd00:1::2 mtu 1200")
	becomes(farAddr6, 1280)
	if mtu, err := netcfg.OutboundMTU("", h.Mark()); mtu != 1200 || err != nil {
		t.Errorf("OutboundMTU: %d, %v", mtu, err)
	}
	if mtu, err := netcfg.OutboundMTU("eth1", h.Mark()); mtu != 1300 || err != nil {
		t.Errorf("OutboundMTU of eth1: %d, %v", mtu, err)
	}
}

// A TUN whose MTU is the lower one is what counts; no way out is no error.
func TestIntegrationPathMTUSmallTUN(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	openTUN(t, tunName)
	cfg := bigTUN()
	for _, mtu := range []int{1400, 1500} {
		cfg.MTU = mtu
		h := open(t, cfg)
		for _, dst := range far {
			wantMTU(t, dst, unix.SOCK_STREAM, mtu)
			wantMTU(t, dst, unix.SOCK_DGRAM, mtu)
		}
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if mtu, err := netcfg.OutboundMTU("", 0); mtu != 1500 || err != nil {
		t.Errorf("OutboundMTU: %d, %v", mtu, err)
	}
	run(t, "ip link set eth0 down")
	if mtu, err := netcfg.OutboundMTU("", 0); mtu != 0 || err != nil {
		t.Errorf("OutboundMTU without a way out: %d, %v", mtu, err)
	}
}
