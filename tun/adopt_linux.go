package tun

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// FromFD adopts open fds of a TUN, one per queue of the same interface, whoever made it and in whatever
// network namespace it is. On success the device owns the fds; on an error they
// stay the caller's. Packets are read and written the way the fd was set up:
// without a virtio header there are no offloads.
func FromFD(cfg Config, fds ...int) (*Device, error) {
	if len(fds) == 0 {
		return nil, errors.New("tun: no fd to adopt")
	}
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return nil, err
	}
	if err := unix.IoctlIfreq(fds[0], unix.TUNGETIFF, ifr); err != nil {
		return nil, fmt.Errorf("tun: fd %d: %w", fds[0], err)
	}
	return newDevice(cfg, ifr.Name(), ifr.Uint16(), fds)
}

// newDevice sets up the offloads of fds, which are the queues of the interface name.
func newDevice(cfg Config, name string, flags uint16, fds []int) (*Device, error) {
	d := &Device{format: format{
		info: flags&unix.IFF_NO_PI == 0,
		vnet: flags&unix.IFF_VNET_HDR != 0,
	}}
	d.writers.New = newWriter
	if d.format.vnet {
		if err := unix.IoctlSetPointerInt(fds[0], unix.TUNSETVNETHDRSZ, HdrLen); err != nil {
			return nil, fmt.Errorf("tun: ioctl TUNSETVNETHDRSZ: %w", err)
		}
		_ = unix.IoctlSetPointerInt(fds[0], unix.TUNSETVNETLE, 1)
		got := setOffload(fds[0])
		d.tso = got&(unix.TUN_F_TSO4|unix.TUN_F_TSO6) != 0
		d.uso = got&(unix.TUN_F_USO4|unix.TUN_F_USO6) != 0
	}
	d.control = newControl(name, cfg.MTU)
	for _, fd := range fds {
		l, err := newLine(fd, name)
		if err != nil {
			return nil, err
		}
		d.lines = append(d.lines, l)
	}
	return d, nil
}

// setOffload tells the kernel what may be left undone in the packets that we
// read, as much of it as it knows, and returns what that was.
func setOffload(fd int) int {
	const (
		tso = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
		uso = unix.TUN_F_USO4 | unix.TUN_F_USO6 // Linux 6.2
	)
	for _, want := range []int{tso | uso, tso, unix.TUN_F_CSUM} {
		if unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, want) == nil {
			return want
		}
	}
	return 0
}
