package bench

import (
	"fmt"
	"net/netip"
	"time"

	"netstackd/bench/testbed"

	"golang.org/x/sys/unix"
)

// udpInFlight is how many datagrams a socket of an Echo load has under way.
const udpInFlight = 8

// udpPatience is how long a datagram may be under way before it is lost.
const udpPatience = 250 * time.Millisecond

// udpSocket is a connected one, and what goes before each payload.
type udpSocket struct {
	fd, control int // control is the TCP connection of a SOCKS association, or -1
	header      []byte
}

func (l *load) dialUDP(to netip.AddrPort) (udpSocket, error) {
	s := udpSocket{control: -1}
	if l.SOCKS.IsValid() {
		fd, err := l.connectTo(l.SOCKS)
		if err != nil {
			return s, err
		}
		s.control, s.header = fd, testbed.UDPHeader(to)
		relay, err := testbed.Handshake(stream(fd), testbed.SOCKSAssociate, netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
		if err != nil {
			return s, fmt.Errorf("UDP through SOCKS server %v: %w", l.SOCKS, err)
		}
		if relay.Addr().IsUnspecified() {
			relay = netip.AddrPortFrom(l.SOCKS.Addr(), relay.Port())
		}
		to = relay
	}
	var err error
	if s.fd, err = newUDP(); err != nil {
		return s, err
	}
	setTimeout(s.fd, udpPatience)
	if err := unix.Connect(s.fd, sockaddr(to)); err != nil {
		unix.Close(s.fd)
		return s, fmt.Errorf("connect UDP to %v: %w", to, err)
	}
	return s, l.own(s.fd)
}

func (l *load) echo(i int) error {
	port, window, train := uint16(portUDP), udpInFlight, 1
	switch l.Kind {
	case Single:
		window = trainLen
	case Train:
		port, window, train = portTrain, 1, trainLen
	}
	s, err := l.dialUDP(l.dest(i, port))
	if err != nil {
		return err
	}
	defer func() {
		l.close(s.fd)
		l.close(s.control)
	}()
	if train > 1 {
		if err := unix.SetsockoptInt(s.fd, unix.SOL_UDP, unix.UDP_GRO, 1); err != nil {
			return fmt.Errorf("UDP_GRO: %w", err)
		}
	}
	f := newFlight(s.header, window, train)
	for !l.stopping.Load() {
		if err := f.fill(s.fd, time.Now()); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		got, err := f.land(s.fd)
		switch err {
		case nil:
			l.done.Add(int64(got))
			l.bytes.Add(int64(got * datagramSize))
		case unix.EAGAIN: // nothing came within udpPatience
		default: // an ICMP error
			if !l.stopping.Load() {
				l.fail(fmt.Errorf("receive: %w", err))
			}
		}
		// After a look at what has come: it may have waited for this thread.
		l.lost.Add(int64(f.late(time.Now().Add(-udpPatience))))
	}
	return nil
}

func (l *load) holdUDP(i int) error {
	s, err := l.dialUDP(l.dest(i, portUDP))
	if err != nil {
		return err
	}
	b := make([]byte, len(s.header)+requestSize)
	for range 20 { // a datagram may be lost while thousands start
		copy(b, s.header)
		if _, err := unix.Write(s.fd, b); err != nil && err != unix.ECONNREFUSED {
			return err
		}
		if _, err := readSome(s.fd, b); err == nil {
			l.done.Add(1)
			l.bytes.Add(requestSize)
			return nil
		}
	}
	return fmt.Errorf("no answer from %v", l.dest(i, portUDP))
}
