//go:build linux

package bench_test

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"netstackd/internal/sys"
)

// tcpPacket is an IPv4 packet of a size, with a TCP segment whose checksum is
// left to the reader of the virtio header.
func tcpPacket(size int) []byte {
	p := make([]byte, size)
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(p[2:], uint16(size))
	copy(p[12:], []byte{198, 18, 0, 2, 203, 0, 113, 1})
	binary.BigEndian.PutUint16(p[10:], ^sum(p[:20], 0))
	binary.BigEndian.PutUint16(p[20:], 40000)
	binary.BigEndian.PutUint16(p[22:], 80)
	p[32], p[33] = 5<<4, 0x10 // header length, ACK
	return p
}

// sum is the Internet checksum (RFC 1071) of b on top of acc, not inverted.
func sum(b []byte, acc uint32) uint16 {
	for ; len(b) > 1; b = b[2:] {
		acc += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		acc += uint32(b[0]) << 8
	}
	for acc > 0xffff {
		acc = acc>>16 + acc&0xffff
	}
	return uint16(acc)
}

// sender is a UDP socket that sends into a tunnel.
type sender struct {
	fd   int
	msgs []sys.Mmsghdr
}

func newSender(b *testing.B, t *tunnel, size, batch int, segment bool) *sender {
	b.Helper()
	s := &sender{}
	err := t.in(func() (err error) {
		s.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if segment {
			err = unix.SetsockoptInt(s.fd, unix.SOL_UDP, unix.UDP_SEGMENT, size)
		}
		if err == nil {
			err = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4<<20)
		}
		if err == nil {
			err = unix.Connect(s.fd, &unix.SockaddrInet4{Addr: [4]byte{10, 0, 0, 1}, Port: 9})
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	n := batch
	if segment {
		n, size = 1, size*batch
	}
	iov := iovecs([][]byte{make([]byte, size)})
	s.msgs = make([]sys.Mmsghdr, n)
	for i := range s.msgs {
		s.msgs[i].Hdr.Iov = &iov[0]
		s.msgs[i].Hdr.SetIovlen(1)
	}
	return s
}

func (s *sender) batch(b *testing.B) {
	n, errno := sys.Sendmmsg(s.fd, s.msgs, 0)
	if errno != 0 || n != len(s.msgs) {
		b.Fatalf("sendmmsg: %d of %d: %v", n, len(s.msgs), errno)
	}
}

func (s *sender) close() { unix.Close(s.fd) }
