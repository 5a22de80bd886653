package socks

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// maxUDP is the largest UDP payload that any address family can carry.
const maxUDP = 65527

// headroom is the largest size of the header of a datagram from an IP address. Each
// datagram is read behind that much room, so that the header is written there and
// the payload is not copied.
const headroom = 3 + 1 + 16 + 2

// packetBuffer holds any datagram with its header.
type packetBuffer [headroom + 65536]byte

var packetBuffers = sync.Pool{New: func() any { return new(packetBuffer) }}

// addrPortConn is a PacketConn that needs no allocation for addresses.
type addrPortConn interface {
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error)
}

// packetHold is how long an idle reader keeps its buffer.
const packetHold = time.Second

// readWaiter is a PacketConn that can be waited for without a buffer.
type readWaiter interface {
	// WaitRead returns when ReadFrom would not block, or has failed.
	WaitRead() error
}

// packetSocket reads and writes datagrams. Where the socket can be waited for, a
// reader that has been idle for packetHold has no buffer.
type packetSocket struct {
	net.PacketConn
	fast     addrPortConn // nil when it has no such methods
	waitRead func() error // nil when it can't be waited for

	// These belong to the reader.
	buf  *packetBuffer
	busy bool // something was read since the deadline was set
}

func newPacketSocket(pc net.PacketConn) *packetSocket {
	s := &packetSocket{PacketConn: pc}
	s.fast, _ = pc.(addrPortConn)
	switch pc := pc.(type) {
	case *net.UDPConn:
		if raw, err := pc.SyscallConn(); err == nil {
			s.waitRead = func() error { return raw.Read(pending) }
		}
	case readWaiter:
		s.waitRead = pc.WaitRead
	}
	return s
}

// read returns the next datagram, with headroom before it in the array, and
// where it is from. It is valid until the next read or release.
func (s *packetSocket) read() (buf *packetBuffer, n int, from netip.AddrPort, err error) {
	for {
		if s.buf == nil {
			if err := s.wait(); err != nil {
				return nil, 0, from, err
			}
			s.buf = packetBuffers.Get().(*packetBuffer)
		}
		if s.fast != nil {
			n, from, err = s.fast.ReadFromUDPAddrPort(s.buf[headroom:])
			from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		} else {
			var addr net.Addr
			n, addr, err = s.ReadFrom(s.buf[headroom:])
			from = addrPort(addr)
		}
		if err == nil {
			s.busy = true
			return s.buf, n, from, nil
		}
		if s.waitRead == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, 0, from, err
		}
		if s.busy { // the reader was not idle
			s.busy = false
			s.SetReadDeadline(time.Now().Add(packetHold))
		} else {
			s.release()
		}
	}
}

// wait waits, without a buffer, until there is something to read, and sets the
// deadline until which a buffer is then held.
func (s *packetSocket) wait() error {
	if s.waitRead == nil {
		return nil
	}
	s.SetReadDeadline(noDeadline)
	if err := s.waitRead(); err != nil {
		return err
	}
	s.busy = false
	return s.SetReadDeadline(time.Now().Add(packetHold))
}

// release gives the buffer back.
func (s *packetSocket) release() {
	if s.buf != nil {
		packetBuffers.Put(s.buf)
		s.buf = nil
	}
}

func (s *packetSocket) write(b []byte, to netip.AddrPort) (err error) {
	if s.fast != nil {
		_, err = s.fast.WriteToUDPAddrPort(b, to)
	} else {
		_, err = s.WriteTo(b, net.UDPAddrFromAddrPort(to))
	}
	return err
}

// soft reports whether a UDP socket still works after err: an ICMP error of one
// datagram, or a lack of memory.
func soft(err error) bool {
	return is(err, syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EHOSTUNREACH, syscall.ENETUNREACH,
		syscall.EHOSTDOWN, syscall.ENETDOWN, syscall.EMSGSIZE, syscall.EACCES, syscall.EPERM, syscall.EPROTO,
		syscall.ENOPROTOOPT, syscall.ENOBUFS, syscall.ENOMEM, syscall.EINTR, syscall.EAGAIN, syscall.ETIMEDOUT)
}
