package bench

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

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
		s.control, s.header = fd, udpHeader(to)
		relay, err := handshake(fd, socksAssociate, netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
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
		if err := f.fill(s.fd); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		got, err := f.land(s.fd)
		switch err {
		case nil:
			l.done.Add(int64(got))
			l.bytes.Add(int64(got * datagramSize))
		case unix.EAGAIN: // what is under way by now won't come
			if !l.stopping.Load() {
				l.lost.Add(int64(f.abandon()))
			}
		default: // an ICMP error
			if !l.stopping.Load() {
				l.fail(fmt.Errorf("receive: %w", err))
			}
		}
	}
	return nil
}

// flight is one socket's datagrams under way.
type flight struct {
	out, in  *messages
	header   int
	size     int // of one datagram with its header
	train    int
	capacity int // datagrams that may be under way
	under    int
	epoch    uint64 // stamped on each, and changed when some are given up
}

func newFlight(header []byte, window, train int) *flight {
	f := &flight{header: len(header), size: len(header) + datagramSize, train: train, capacity: window * train}
	f.out = newMessages(window, f.size*train)
	room := f.size
	if train > 1 {
		room = trainBuffer
	}
	f.in = newMessages(max(window, 2), room)
	for i, b := range f.out.bufs {
		for at := 0; at < len(b); at += f.size {
			copy(b[at:], header)
		}
		if train > 1 {
			f.out.segment(i, uint16(f.size), 0)
		}
	}
	return f
}

// fill sends as many as there is room for.
func (f *flight) fill(fd int) error {
	for f.capacity-f.under >= f.train {
		n, err := f.out.send(fd, (f.capacity-f.under)/f.train)
		switch err {
		case nil:
			f.under += n * f.train
		case unix.ECONNREFUSED: // the answer to an earlier one
		case unix.EAGAIN, unix.ENOBUFS:
			return nil
		default:
			return err
		}
	}
	return nil
}

// land receives what has come and returns how many of them count.
func (f *flight) land(fd int) (int, error) {
	n, err := f.in.receive(fd, false)
	if err != nil {
		return 0, err
	}
	got := 0
	for i := range n {
		b, datagrams := f.in.received(i, f.size)
		if len(b) >= f.header+8 && binary.NativeEndian.Uint64(b[f.header:]) == f.epoch {
			got += datagrams
		}
	}
	got = min(got, f.under)
	f.under -= got
	return got, nil
}

// abandon gives up what is under way, and returns how many that were.
func (f *flight) abandon() int {
	lost := f.under
	f.under = 0
	f.epoch++
	for _, b := range f.out.bufs {
		for at := f.header; at < len(b); at += f.size {
			binary.NativeEndian.PutUint64(b[at:], f.epoch)
		}
	}
	return lost
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
