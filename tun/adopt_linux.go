package tun

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// FromFD adopts the open fds of a TUN, one for each of its queues. The TUN may
// have been made by any program, in any network namespace. On success FromFD
// closes the fds and keeps duplicates, which Close closes. On error the caller
// keeps the fds. The open file descriptions become non-blocking, also for other
// processes that share them. Packets keep the format that the fd was set up
// with: without IFF_VNET_HDR there are no offloads. Of cfg only MTU is used.
func FromFD(cfg Config, fds ...int) (*Device, error) {
	if len(fds) == 0 {
		return nil, errors.New("tun: no fd to adopt")
	}
	var name string
	var flags uint16
	for i, fd := range fds {
		n, f, err := interfaceOf(fd)
		if err != nil {
			return nil, err
		}
		if i > 0 && n != name {
			return nil, fmt.Errorf("tun: fd %d is a queue of %s and fd %d one of %s: adopt one interface", fds[0], name, fd, n)
		}
		name, flags = n, f
	}
	f := format{vnet: flags&unix.IFF_VNET_HDR != 0}
	var err error
	if f.info, err = hasInfo(fds[0], f.vnet); err != nil {
		return nil, fmt.Errorf("tun: %s: %w", name, err)
	}
	d, err := newDevice(name, f, fds)
	if err != nil {
		return nil, err
	}
	d.control = adoptedControl(fds[0], name, cfg.MTU)
	closeAll(fds)
	return d, nil
}

// hasInfo reports whether a struct tun_pi comes before each packet on fd.
// TUNGETIFF does not tell: it reports the bit of IFF_NO_PI as IFF_NOFILTER,
// which is always set. So hasInfo writes a zero struct tun_pi, a zero virtio
// header and no packet. Without IFF_NO_PI the kernel takes this as an empty
// packet of no protocol and drops it. With IFF_NO_PI it is a packet of IP
// version 0, which the kernel refuses with EINVAL.
func hasInfo(fd int, vnet bool) (bool, error) {
	size := infoLen
	if vnet {
		n, err := unix.IoctlGetInt(fd, unix.TUNGETVNETHDRSZ)
		if err != nil {
			return false, os.NewSyscallError("ioctl TUNGETVNETHDRSZ", err)
		}
		size += n
	}
	_, err := unix.Write(fd, make([]byte, size))
	return err != unix.EINVAL, nil
}

// interfaceOf returns the name and the flags of the TUN that fd is a queue of.
func interfaceOf(fd int) (string, uint16, error) {
	var ifr unix.Ifreq
	if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, &ifr); err != nil {
		return "", 0, adoptError(fd, err)
	}
	name, flags := ifr.Name(), ifr.Uint16()
	if flags&unix.IFF_TUN == 0 {
		return "", 0, fmt.Errorf("tun: fd %d: %s is a TAP, which carries Ethernet frames: make it with 'mode tun' (IFF_TUN)", fd, name)
	}
	return name, flags, nil
}

// newDevice returns a device on duplicates of fds, queues of the interface
// name. The caller adds its control.
func newDevice(name string, f format, fds []int) (*Device, error) {
	offloads := 0
	if f.vnet {
		// Both belong to the interface, not to one queue.
		if err := unix.IoctlSetPointerInt(fds[0], unix.TUNSETVNETHDRSZ, HdrLen); err != nil {
			return nil, fmt.Errorf("tun: %s: ioctl TUNSETVNETHDRSZ: %w", name, err)
		}
		if err := unix.IoctlSetPointerInt(fds[0], unix.TUNSETVNETLE, 1); err != nil {
			return nil, fmt.Errorf("tun: %s: ioctl TUNSETVNETLE: %w", name, err)
		}
		offloads = setOffloads(fds[0])
	}
	d, err := assemble(f, fds)
	if err != nil {
		return nil, fmt.Errorf("tun: %s: %w", name, err)
	}
	d.offloads = offloads
	return d, nil
}

// assemble returns a device on duplicates of fds. It duplicates them because a
// descriptor can't be taken back from the runtime's poller.
func assemble(f format, fds []int) (*Device, error) {
	d := &Device{format: f}
	for _, fd := range fds {
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, errors.Join(os.NewSyscallError("fcntl", err), d.closeQueues())
		}
		q, err := newQueue(own)
		if err != nil {
			return nil, errors.Join(err, d.closeQueues())
		}
		d.queues = append(d.queues, q)
	}
	return d, nil
}

// What setOffloads asks for (TUN_F_ of linux/if_tun.h).
const (
	offloadTSO = unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	offloadUSO = unix.TUN_F_USO4 | unix.TUN_F_USO6 // since Linux 6.2
)

// setOffloads enables the offloads that the kernel knows, as many as possible, and
// returns them.
func setOffloads(fd int) int {
	for _, want := range []int{
		unix.TUN_F_CSUM | offloadTSO | offloadUSO,
		unix.TUN_F_CSUM | offloadTSO,
		unix.TUN_F_CSUM,
	} {
		if unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, want) == nil {
			return want
		}
	}
	return 0
}
