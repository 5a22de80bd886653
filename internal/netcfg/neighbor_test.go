//go:build linux

package netcfg_test

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// A full neighbor table (gc_thresh3, by default 1024 entries) does not keep
// packets out of the TUN.
func TestIntegrationFullNeighborTable(t *testing.T) {
	if !isolate(t) {
		return
	}
	buildNetwork(t)
	openTUN(t, tunName)
	cfg := testConfig()
	cfg.Routes = prefixes("203.0.113.0/24")
	open(t, cfg)
	run(t, "ip addr add 10.9.0.1/16 dev eth0")

	full := false
	for i := range 4000 { // no host has these addresses
		err := sendTo(t, netip.AddrFrom4([4]byte{10, 9, byte(1 + i>>8), byte(i)}))
		full = full || errors.Is(err, unix.ENOBUFS)
	}
	if !full {
		t.Fatal("the neighbor table is not full: the test shows nothing")
	}
	for range 3 {
		if err := sendTo(t, netip.MustParseAddr("203.0.113.9")); err != nil {
			t.Fatalf("into the TUN: %v", err)
		}
	}
}

// sendTo sends one datagram from a socket of its own. With IP_RECVERR the kernel
// reports a neighbor that it can't add, as ENOBUFS.
func sendTo(t *testing.T, to netip.Addr) error {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1); err != nil {
		t.Fatal(err)
	}
	return unix.Sendto(fd, []byte("hello"), 0, &unix.SockaddrInet4{Port: 9, Addr: to.As4()})
}
