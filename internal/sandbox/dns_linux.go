package sandbox

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

const dnsPort = 53

// listenDNS binds port 53 of addresses on loopback, for TCP and for UDP. What
// can't be bound is left out: it is there for programs that insist on the host's
// configuration.
func listenDNS(addrs []netip.Addr) (streams, packets []int) {
	for _, a := range addrs {
		if fd, err := bind(a, unix.SOCK_STREAM); err == nil {
			streams = append(streams, fd)
		}
		if fd, err := bind(a, unix.SOCK_DGRAM); err == nil {
			packets = append(packets, fd)
		}
	}
	return streams, packets
}

// bind makes a socket of a type on port 53 of a; a stream socket listens.
func bind(a netip.Addr, kind int) (int, error) {
	var sa unix.Sockaddr = &unix.SockaddrInet4{Port: dnsPort}
	if a.Is6() {
		sa = &unix.SockaddrInet6{Port: dnsPort, Addr: a.As16()}
	} else {
		sa.(*unix.SockaddrInet4).Addr = a.As4()
	}
	fd, err := unix.Socket(int(family(a.Is6())), kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	if err = unix.Bind(fd, sa); err == nil && kind == unix.SOCK_STREAM {
		err = unix.Listen(fd, unix.SOMAXCONN)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
