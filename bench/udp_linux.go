package bench

import (
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	datagramSize = 1200     // payload of a datagram
	trainLen     = 40       // datagrams in a train: 48,000 bytes, one super-packet
	socketBuffer = 4 << 20  // of the load's UDP sockets, so that loss is not theirs
	trainBuffer  = 64 << 10 // what UDP_GRO may deliver at once
)

func newUDP() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	for _, opt := range []int{unix.SO_RCVBUFFORCE, unix.SO_SNDBUFFORCE} {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt, socketBuffer)
	}
	return fd, nil
}

func listenUDP(port uint16) (int, error) {
	fd, err := newUDP()
	if err != nil {
		return -1, err
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_PKTINFO, 1)
	}
	if err == nil && port == portTrain {
		err = unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Port: int(port)})
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("listen on UDP port %d: %w", port, err)
	}
	return fd, nil
}

// echoUDP sends everything back, in batches as large as they come.
func echoUDP(fd int, trains bool) {
	size := 2048
	if trains {
		size = trainBuffer
	}
	m := newMessages(32, size)
	for {
		n, err := m.receive(fd, true)
		if err != nil {
			continue // an ICMP error for an answer
		}
		for i := range n {
			m.turn(i)
		}
		for at := 0; at < n; {
			rest := messages{hdrs: m.hdrs[at:]}
			sent, err := rest.send(fd, n-at)
			if err != nil {
				sent = 1 // that one is lost; the client counts it
			}
			at += sent
		}
	}
}
