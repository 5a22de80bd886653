//go:build linux

package netcfg_test

import (
	"errors"
	"net/netip"
	"testing"

	"netstackd/internal/testnet"

	"golang.org/x/sys/unix"
)

// A full neighbor table (gc_thresh3, by default 1024 entries) does not keep
// packets out of the TUN, to destinations that are new to it.
func TestIntegrationFullNeighborTable(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	openTUN(t, tunName)
	cfg := testConfig()
	cfg.Routes = prefixes("203.0.113.0/24", "2001:db8:ff::/48")
	open(t, cfg)
	run(t, "ip addr add 10.9.0.1/16 dev eth0")
	run(t, "ip addr add fd00:9::1/64 dev eth0 nodad")
	for _, c := range []struct{ flood, captured netip.Addr }{
		{netip.MustParseAddr("10.9.1.0"), netip.MustParseAddr("203.0.113.9")},
		{netip.MustParseAddr("fd00:9::1:0"), netip.MustParseAddr("2001:db8:ff::9")},
	} {
		full := false
		for range 4000 { // no host has these addresses
			c.flood = c.flood.Next()
			err := sendTo(t, c.flood)
			full = full || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EINVAL) // IPv4, IPv6
		}
		if !full {
			t.Fatalf("%s: the neighbor table is not full: the test shows nothing", c.flood)
		}
		for range 3 {
			if err := sendTo(t, c.captured); err != nil {
				t.Errorf("to %s, into the TUN: %v", c.captured, err)
			}
			c.captured = c.captured.Next()
		}
	}
}

// sendTo sends one datagram from a socket of its own. With IP_RECVERR the kernel
// reports a neighbor that it can't add, as ENOBUFS.
func sendTo(t *testing.T, to netip.Addr) error {
	t.Helper()
	family, level, option := unix.AF_INET, unix.IPPROTO_IP, unix.IP_RECVERR
	var dst unix.Sockaddr
	if to.Is4() {
		dst = &unix.SockaddrInet4{Port: 9, Addr: to.As4()}
	} else {
		dst = &unix.SockaddrInet6{Port: 9, Addr: to.As16()}
		family, level, option = unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_RECVERR
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
		t.Fatal(err)
	}
	return unix.Sendto(fd, []byte("hello"), 0, dst)
}
