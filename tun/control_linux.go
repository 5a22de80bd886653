package tun

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// control reads and changes the settings of an interface that its fd can't:
// through a socket in the network namespace of the interface, which may not be
// the namespace of this process.
type control struct {
	name string
	mtu  int  // from the Config, for an interface that can't be asked
	sock int  // -1 if this process may not enter the namespace
	sure bool // sock is known to be in the namespace of the interface
}

// openedControl is for an interface that this process opened, so it is in the
// namespace of this process.
func openedControl(name string) *control {
	return &control{name: name, sock: newSocket(), sure: true}
}

// adoptedControl is for the interface of an fd that came from elsewhere.
func adoptedControl(fd int, name string, mtu int) *control {
	c := &control{name: name, mtu: mtu}
	ns, err := unix.IoctlRetInt(fd, unix.SIOCGSKNS)
	if err != nil {
		// The ioctl needs privileges. An unprivileged process most likely has an
		// interface in its own namespace.
		c.sock = newSocket()
		return c
	}
	defer unix.Close(ns)
	c.sock, c.sure = socketIn(ns), true
	return c
}

func (c *control) close() error {
	if c.sock < 0 {
		return nil
	}
	return unix.Close(c.sock)
}

// socketIn returns a socket in the network namespace ns, or -1.
func socketIn(ns int) int {
	var own, its unix.Stat_t
	if unix.Stat("/proc/thread-self/ns/net", &own) == nil && unix.Fstat(ns, &its) == nil &&
		own.Dev == its.Dev && own.Ino == its.Ino {
		return newSocket()
	}
	sock := make(chan int)
	go func() {
		// The thread is never unlocked: it ends with the goroutine, so that no
		// other goroutine runs in the wrong namespace.
		runtime.LockOSThread()
		if unix.Setns(ns, unix.CLONE_NEWNET) != nil {
			sock <- -1
			return
		}
		sock <- newSocket()
	}()
	return <-sock
}

// newSocket returns a socket in the calling thread's network namespace, or -1.
func newSocket() int {
	sock, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return sock
}

// errForeign is the error for an interface that can't be asked.
var errForeign = errors.New("it is in a network namespace that can't be entered")

// ioctl makes one interface request. If set is not nil, it fills in the argument.
func (c *control) ioctl(req uint, name string, set func(*unix.Ifreq)) (*unix.Ifreq, error) {
	if c.sock < 0 {
		return nil, errForeign
	}
	ifr, err := unix.NewIfreq(c.name)
	if err != nil {
		return nil, err
	}
	if set != nil {
		set(ifr)
	}
	if err := unix.IoctlIfreq(c.sock, req, ifr); err != nil {
		return nil, os.NewSyscallError("ioctl "+name, err)
	}
	return ifr, nil
}

// Name returns the name that the interface had when the device was opened.
func (d *Device) Name() string { return d.control.name }

// Index returns the interface's index in its network namespace.
func (d *Device) Index() (int, error) {
	ifr, err := d.control.ioctl(unix.SIOCGIFINDEX, "SIOCGIFINDEX", nil)
	if err != nil {
		return 0, fmt.Errorf("tun: index of %s: %w", d.control.name, err)
	}
	return int(ifr.Uint32()), nil
}

// MTU returns the interface's MTU, in bytes. If this process may not enter the
// network namespace of the interface, it is the MTU of the Config.
func (d *Device) MTU() (int, error) {
	c := d.control
	if c.mtu > 0 && (c.sock < 0 || !c.sure) {
		return c.mtu, nil
	}
	ifr, err := c.ioctl(unix.SIOCGIFMTU, "SIOCGIFMTU", nil)
	if err != nil {
		return 0, &ConfigError{"MTU", fmt.Errorf("tun: mtu of %s: %w: give it", c.name, err)}
	}
	return int(ifr.Uint32()), nil
}

// SetMTU sets the interface's MTU, in bytes: 68 to 65535, for IPv6 no less than 1280.
func (d *Device) SetMTU(mtu int) error {
	_, err := d.control.ioctl(unix.SIOCSIFMTU, "SIOCSIFMTU", func(ifr *unix.Ifreq) { ifr.SetUint32(uint32(mtu)) })
	if err != nil {
		return fmt.Errorf("tun: set mtu %d of %s: %w", mtu, d.control.name, err)
	}
	return nil
}

// ensureMTU sets the MTU unless it has this value already. A user who may open a
// persistent interface may not change its MTU.
func (d *Device) ensureMTU(mtu int) error {
	have, err := d.MTU()
	if err != nil || have == mtu {
		return err
	}
	err = d.SetMTU(mtu)
	switch {
	case errors.Is(err, unix.EPERM):
		return &ConfigError{"MTU", fmt.Errorf("%w: give %d, or have root run 'ip link set dev %s mtu %d'", err, have, d.control.name, mtu)}
	case errors.Is(err, unix.EINVAL):
		return &ConfigError{"MTU", fmt.Errorf("%w: it takes 68 to 65535", err)}
	}
	return err
}
