package sandbox_test

import (
	"errors"
	"net/netip"
	"runtime"
	"testing"

	"netstackd/internal/sandbox"
	"netstackd/internal/testnet"

	"golang.org/x/sys/unix"
)

// The kernel takes packets to an address as soon as it has been added: a
// connection to it is refused at once, and not routed into the TUN.
func TestIntegrationAddressIsUsable(t *testing.T) {
	testnet.RequireRoot(t)
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the thread is in another namespace, and ends with the goroutine
		failed <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			fds, err := sandbox.OpenTUN("tun0", 1)
			if err != nil {
				return err
			}
			defer unix.Close(fds[0])
			routed := 0
			for i := range 200 {
				a := netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x19, 7: byte(i), 15: 1})
				if err := sandbox.AddAddress("tun0", netip.PrefixFrom(a, 126)); err != nil {
					return err
				}
				if err := connectNow(a); !errors.Is(err, unix.ECONNREFUSED) {
					routed++
				}
			}
			if routed > 0 {
				t.Errorf("connections to %d of 200 addresses were not refused", routed)
			}
			return nil
		}()
	}()
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
}

// connectNow connects to a closed port without waiting for an answer.
func connectNow(a netip.Addr) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	sa := &unix.SockaddrInet6{Port: 9, Addr: a.As16()}
	if err = unix.Connect(fd, sa); err != unix.EINPROGRESS {
		return err
	}
	// Loopback answers before connect returns.
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	return unix.Errno(errno)
}
