package sandbox

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const tunNode = "/dev/net/tun"

// openTUN makes the interface name in this network namespace and returns the
// fds of its queues. Offloads are left to who gets them.
func openTUN(name string, queues int) (fds []int, err error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return nil, fmt.Errorf("interface %q: %w", name, err)
	}
	flags := uint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if queues > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	for range queues {
		fd, err := unix.Open(tunNode, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			closeAll(fds)
			return nil, &os.PathError{Op: "open", Path: tunNode, Err: err}
		}
		fds = append(fds, fd)
		ifr.SetUint16(flags)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
			closeAll(fds)
			return nil, fmt.Errorf("make interface %s: %w", name, err)
		}
	}
	return fds, nil
}
