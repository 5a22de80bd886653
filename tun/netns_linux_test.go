package tun_test

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// netns is a network namespace of a test's own. It lives as long as its thread
// or anything that was opened in it.
type netns struct {
	work chan func()
	ran  chan struct{}
}

// newNetns returns a new network namespace. Where none can be made, or no TUN
// in it, it skips the test, or fails it if NETSTACKD_INTEGRATION=1.
func newNetns(t testing.TB) *netns {
	t.Helper()
	ns := &netns{make(chan func()), make(chan struct{})}
	made := make(chan error)
	var wg sync.WaitGroup
	wg.Go(func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its goroutine
		_, err := os.Stat("/dev/net/tun")
		if err == nil {
			err = unix.Unshare(unix.CLONE_NEWNET)
		}
		made <- err
		for f := range ns.work {
			f()
			ns.ran <- struct{}{}
		}
	})
	if err := <-made; err != nil {
		close(ns.work)
		wg.Wait()
		if os.Getenv("NETSTACKD_INTEGRATION") == "1" {
			t.Fatalf("no namespace with a TUN to test in: %v: run it as root", err)
		}
		t.Skipf("no namespace with a TUN to test in: %v", err)
	}
	t.Cleanup(func() { close(ns.work); wg.Wait() })
	return ns
}

// Do runs f on a thread in the namespace. f must not call t.Fatal, nor
// anything that moves to another goroutine.
func (ns *netns) Do(f func()) {
	ns.work <- f
	<-ns.ran
}

// Must is Do for what has to succeed.
func (ns *netns) Must(t testing.TB, f func() error) {
	t.Helper()
	var err error
	ns.Do(func() { err = f() })
	if err != nil {
		t.Fatal(err)
	}
}

// ListenUDP returns a UDP socket of the namespace.
func (ns *netns) ListenUDP(t testing.TB, addr string) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	ns.Must(t, func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(mustAddrPort(addr)))
		return err
	})
	t.Cleanup(func() { c.Close() })
	return c
}

// up gives the interface the addresses 10.77.0.1/24 and fd77::1/64 and brings
// it up. It runs in the namespace.
func up(name string) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	set := func(req uint, f func(*unix.Ifreq) error) {
		ifr, e := unix.NewIfreq(name)
		err = errors.Join(err, e)
		if e == nil {
			err = errors.Join(err, f(ifr), unix.IoctlIfreq(s, req, ifr))
		}
	}
	set(unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr([]byte{10, 77, 0, 1}) })
	set(unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr([]byte{255, 255, 255, 0}) })
	return errors.Join(err, setUp(name, true), addIPv6(name))
}

// addIPv6 gives the interface fd77::1/64, if the kernel has IPv6.
func addIPv6(name string) error {
	s, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(s)
	i, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	req := struct { // struct in6_ifreq (linux/ipv6.h)
		addr      [16]byte
		prefixLen uint32
		index     int32
	}{[16]byte{0: 0xfd, 1: 0x77, 15: 1}, 64, int32(i.Index)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s), unix.SIOCSIFADDR, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return errno
	}
	return nil
}

// setUp brings the interface up or down.
func setUp(name string, up bool) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if up {
		ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	}
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, ifr)
}

// deleteLink deletes the interface (RTM_DELLINK of rtnetlink(7)).
func deleteLink(name string) error {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	msg := make([]byte, unix.SizeofNlMsghdr+unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(msg, uint32(len(msg)))
	binary.NativeEndian.PutUint16(msg[4:], unix.RTM_DELLINK)
	binary.NativeEndian.PutUint16(msg[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	binary.NativeEndian.PutUint32(msg[unix.SizeofNlMsghdr+4:], uint32(i.Index))
	if err := unix.Sendto(s, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	ack := make([]byte, 4096)
	if _, _, err := unix.Recvfrom(s, ack, 0); err != nil {
		return err
	}
	if errno := -int32(binary.NativeEndian.Uint32(ack[unix.SizeofNlMsghdr:])); errno != 0 {
		return unix.Errno(errno)
	}
	return nil
}
