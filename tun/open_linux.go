package tun

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

const node = "/dev/net/tun"

// Open makes the interface cfg.Name, or attaches to it if it exists and is a
// TUN that no other process has open. It asks for a virtio header and for all
// offloads that the kernel supports. A new interface is down, has no address,
// and exists until Close or the end of the process.
func Open(cfg Config) (*Device, error) {
	if err := checkName(cfg.Name); err != nil {
		return nil, fmt.Errorf("tun: %w", err)
	}
	queues := cfg.Queues
	if queues <= 0 {
		queues = runtime.GOMAXPROCS(0) // respects the limits of a container
	}
	flags := uint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if !cfg.Plain {
		flags |= unix.IFF_VNET_HDR
	}
	if queues > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	fds, name, err := openQueues(cfg.Name, flags, queues)
	if err != nil {
		return nil, openError(cfg.Name, err)
	}
	defer closeAll(fds)
	d, err := newDevice(name, format{vnet: !cfg.Plain}, fds)
	if err != nil {
		return nil, err
	}
	d.control = openedControl(name)
	if cfg.MTU > 0 {
		if err := d.ensureMTU(cfg.MTU); err != nil {
			d.Close()
			return nil, err
		}
	}
	return d, nil
}

// openQueues opens the given number of queues of the interface name, or one queue
// if the interface exists and supports only one. It returns the fds and the
// name that the interface got.
func openQueues(name string, flags uint16, queues int) ([]int, string, error) {
	fd, name, err := attach(name, flags|unix.IFF_TUN_EXCL)
	if errors.Is(err, unix.EBUSY) { // it exists
		fd, name, err = attachIdle(name, flags)
	}
	if errors.Is(err, unix.EINVAL) {
		// An existing interface accepts only the value of IFF_MULTI_QUEUE that it
		// was made with.
		flags ^= unix.IFF_MULTI_QUEUE
		fd, name, err = attachIdle(name, flags)
	}
	if err != nil {
		return nil, "", err
	}
	fds := []int{fd}
	for len(fds) < queues && flags&unix.IFF_MULTI_QUEUE != 0 {
		fd, _, err := attach(name, flags)
		if err != nil {
			closeAll(fds)
			return nil, "", err
		}
		fds = append(fds, fd)
	}
	return fds, name, nil
}

// attachIdle opens one queue of an interface that exists. Only a persistent
// interface can exist without a process. Any other belongs to a running
// process; with several queues, that process would share its packets with us.
func attachIdle(name string, flags uint16) (int, string, error) {
	fd, name, err := attach(name, flags)
	if err != nil {
		return -1, name, err
	}
	ifr, err := unix.NewIfreq("")
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr)
	}
	if err == nil && ifr.Uint16()&unix.IFF_PERSIST == 0 {
		err = unix.EBUSY
	}
	if err != nil {
		unix.Close(fd)
		return -1, name, os.NewSyscallError("ioctl TUNSETIFF", err)
	}
	return fd, name, nil
}

// attach opens one queue of the interface name and returns the fd, and the
// name that the kernel chose.
func attach(name string, flags uint16) (int, string, error) {
	fd, err := unix.Open(node, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, name, &os.PathError{Op: "open", Path: node, Err: err}
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(flags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		unix.Close(fd)
		return -1, name, os.NewSyscallError("ioctl TUNSETIFF", err)
	}
	return fd, ifr.Name(), nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// checkName refuses the names that the kernel refuses with a bare EINVAL.
func checkName(name string) error {
	if len(name) >= unix.IFNAMSIZ || name == "." || name == ".." || strings.ContainsAny(name, "/: \t\n") {
		return &ConfigError{"Name", fmt.Errorf("%q is no interface name: one has up to %d bytes without / : or space", name, unix.IFNAMSIZ-1)}
	}
	return nil
}
