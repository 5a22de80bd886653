package tun_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"netstackd/tun"
)

// rawTUN opens /dev/net/tun as another program would, and attaches it to the
// interface name with flags. It runs in a namespace.
func rawTUN(name string, flags uint16) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return -1, err
	}
	ifr.SetUint16(flags)
	return fd, unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
}

// TestIntegrationAdopt passes the suite with fds of every form, all of them
// from another network namespace than the test's.
func TestIntegrationAdopt(t *testing.T) {
	for name, flags := range map[string]uint16{
		"vnet":      unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR,
		"plain":     unix.IFF_TUN | unix.IFF_NO_PI,
		"info":      unix.IFF_TUN,
		"info+vnet": unix.IFF_TUN | unix.IFF_VNET_HDR,
	} {
		t.Run(name, func(t *testing.T) {
			testDevice(t, func(t *testing.T) (device, side) {
				ns := newNetns(t)
				var fd int
				ns.Must(t, func() (err error) {
					if fd, err = rawTUN("adopted0", flags); err != nil {
						return err
					}
					if flags&unix.IFF_VNET_HDR != 0 { // as a virtual machine may have left it
						if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, 12); err != nil {
							return err
						}
					}
					return up("adopted0")
				})
				d, err := tun.FromFD(tun.Config{}, fd)
				if err != nil {
					t.Fatal(err)
				}
				if want := flags&unix.IFF_VNET_HDR != 0; d.VNetHdr() != want || d.TSO() != want {
					t.Errorf("VNetHdr, TSO = %v, %v; want %v", d.VNetHdr(), d.TSO(), want)
				}
				if d.Name() != "adopted0" {
					t.Errorf("Name = %q, want adopted0", d.Name())
				}
				// The test's thread is in another namespace, where there is no adopted0.
				if mtu, err := d.MTU(); mtu != 1500 || err != nil {
					t.Errorf("MTU = %d, %v; want 1500, nil", mtu, err)
				}
				return d, newKernelSide(t, ns, d.Name())
			})
		})
	}
}

func TestIntegrationAdoptQueues(t *testing.T) {
	ns := newNetns(t)
	const flags = unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE
	var fds [3]int
	for i, name := range []string{"a0", "a0", "b0"} {
		ns.Must(t, func() (err error) {
			fds[i], err = rawTUN(name, flags)
			return err
		})
	}
	if _, err := tun.FromFD(tun.Config{}, fds[0], fds[2]); err == nil || !strings.Contains(err.Error(), "b0") {
		t.Errorf("FromFD of two interfaces = %v, want an error that names both", err)
	}
	d, err := tun.FromFD(tun.Config{}, fds[0], fds[1])
	if err != nil {
		t.Fatal(err)
	}
	if d.Queues() != 2 {
		t.Errorf("Queues = %d, want 2", d.Queues())
	}
	if err := errors.Join(d.Close(), unix.Close(fds[2])); err != nil {
		t.Error(err)
	}
}

// TestIntegrationAdoptRefused checks that an fd that can't serve is refused
// with the reason, and stays open.
func TestIntegrationAdoptRefused(t *testing.T) {
	ns := newNetns(t)
	for name, test := range map[string]struct {
		open func() (int, error)
		errs []error
		says string
	}{
		"TAP":        {func() (int, error) { return rawTUN("tap0", unix.IFF_TAP|unix.IFF_NO_PI) }, nil, "TAP"},
		"file":       {func() (int, error) { return unix.Open(os.DevNull, unix.O_RDWR, 0) }, []error{unix.ENOTTY, unix.EINVAL}, "/dev/net/tun"},
		"unattached": {func() (int, error) { return unix.Open("/dev/net/tun", unix.O_RDWR, 0) }, []error{unix.EBADFD}, "TUNSETIFF"},
	} {
		t.Run(name, func(t *testing.T) {
			var fd int
			ns.Must(t, func() (err error) {
				fd, err = test.open()
				return err
			})
			d, err := tun.FromFD(tun.Config{}, fd)
			if err == nil {
				d.Close()
				t.Fatal("FromFD = nil, want an error")
			}
			wrapped := len(test.errs) == 0
			for _, want := range test.errs {
				wrapped = wrapped || errors.Is(err, want)
			}
			if !wrapped || !strings.Contains(err.Error(), test.says) {
				t.Errorf("FromFD = %v, want one of %v that says %q", err, test.errs, test.says)
			}
			if err := unix.Close(fd); err != nil {
				t.Errorf("the refused fd: %v", err)
			}
		})
	}
}

func TestAdoptNothing(t *testing.T) {
	if _, err := tun.FromFD(tun.Config{}); err == nil {
		t.Error("FromFD without fds = nil, want an error")
	}
	if _, err := tun.FromFD(tun.Config{}, 1<<20); !errors.Is(err, unix.EBADF) {
		t.Errorf("FromFD of a closed fd = %v, want EBADF", err)
	}
}
