package tun

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// control asks and tells the interface what the fd can't: a socket in its
// network namespace.
type control struct {
	name string
	mtu  int
	sock int
}

func newControl(name string, mtu int) *control {
	sock, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		sock = -1
	}
	return &control{name: name, mtu: mtu, sock: sock}
}

func (c *control) close() error {
	if c.sock < 0 {
		return nil
	}
	return unix.Close(c.sock)
}

// Name returns the interface's name.
func (d *Device) Name() string { return d.control.name }

// MTU returns the interface's MTU, in bytes.
func (d *Device) MTU() (int, error) {
	ifr, err := unix.NewIfreq(d.control.name)
	if err == nil {
		err = unix.IoctlIfreq(d.control.sock, unix.SIOCGIFMTU, ifr)
	}
	if err != nil {
		return 0, fmt.Errorf("tun: mtu of %s: %w", d.control.name, err)
	}
	return int(ifr.Uint32()), nil
}

// Index returns the interface's index.
func (d *Device) Index() (int, error) {
	ifr, err := unix.NewIfreq(d.control.name)
	if err == nil {
		err = unix.IoctlIfreq(d.control.sock, unix.SIOCGIFINDEX, ifr)
	}
	if err != nil {
		return 0, fmt.Errorf("tun: index of %s: %w", d.control.name, err)
	}
	return int(ifr.Uint32()), nil
}

// SetMTU sets the interface's MTU, in bytes.
func (d *Device) SetMTU(mtu int) error {
	ifr, err := unix.NewIfreq(d.control.name)
	if err == nil {
		ifr.SetUint32(uint32(mtu))
		err = unix.IoctlIfreq(d.control.sock, unix.SIOCSIFMTU, ifr)
	}
	if err != nil {
		return fmt.Errorf("tun: set mtu %d of %s: %w", mtu, d.control.name, err)
	}
	return nil
}
