package bench

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmsghdr is struct mmsghdr (sys/socket.h).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// controlLen has room for IP_PKTINFO and one of UDP_GRO and UDP_SEGMENT.
const controlLen = 64

// messages are a batch of datagrams, or of trains of them, and the memory that
// they are in.
type messages struct {
	hdrs     []mmsghdr
	iovs     []unix.Iovec
	names    []unix.RawSockaddrInet4
	controls [][controlLen]byte
	bufs     [][]byte
}

// newMessages makes n of a size, with room for a name and for control messages.
func newMessages(n, size int) *messages {
	m := &messages{
		hdrs:     make([]mmsghdr, n),
		iovs:     make([]unix.Iovec, n),
		names:    make([]unix.RawSockaddrInet4, n),
		controls: make([][controlLen]byte, n),
		bufs:     make([][]byte, n),
	}
	for i := range m.hdrs {
		m.bufs[i] = make([]byte, size)
		m.set(i, m.bufs[i])
		m.hdrs[i].hdr.Iov = &m.iovs[i]
		m.hdrs[i].hdr.SetIovlen(1)
	}
	return m
}

func (m *messages) set(i int, b []byte) {
	m.iovs[i].Base = &b[0]
	m.iovs[i].SetLen(len(b))
}

// receive waits for one datagram and takes more if there are. Names and control
// messages come with them where asked for.
func (m *messages) receive(fd int, meta bool) (int, error) {
	for i := range m.hdrs {
		m.iovs[i].SetLen(len(m.bufs[i]))
		if meta {
			m.hdrs[i].hdr.Name = (*byte)(unsafe.Pointer(&m.names[i]))
			m.hdrs[i].hdr.Namelen = unix.SizeofSockaddrInet4
			m.hdrs[i].hdr.Control = &m.controls[i][0]
			m.hdrs[i].hdr.SetControllen(controlLen)
		}
	}
	return m.call(unix.SYS_RECVMMSG, fd, len(m.hdrs), unix.MSG_WAITFORONE)
}

// send sends the first n; the error is that of the first that was not sent.
func (m *messages) send(fd, n int) (int, error) {
	return m.call(unix.SYS_SENDMMSG, fd, n, 0)
}

func (m *messages) call(trap uintptr, fd, n, flags int) (int, error) {
	for {
		r, _, errno := unix.Syscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(&m.hdrs[0])), uintptr(n), uintptr(flags), 0, 0)
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// segment makes message i a train of segments of a size (UDP_SEGMENT), on top
// of the control messages that are there.
func (m *messages) segment(i int, size uint16, at int) {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&m.controls[i][at]))
	h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(m.controls[i][at+unix.CmsgLen(0):], size)
	m.hdrs[i].hdr.Control = &m.controls[i][0]
	m.hdrs[i].hdr.SetControllen(at + unix.CmsgSpace(2))
}

// turn makes an answer of the received message i: the same bytes, from the
// address that was asked, cut into datagrams as they came.
func (m *messages) turn(i int) {
	var local [4]byte
	var size uint16
	for rest := m.controls[i][:m.hdrs[i].hdr.Controllen]; len(rest) >= unix.SizeofCmsghdr; {
		h, data, next, err := unix.ParseOneSocketControlMessage(rest)
		if err != nil {
			break
		}
		switch {
		case h.Level == unix.SOL_IP && h.Type == unix.IP_PKTINFO:
			copy(local[:], data[8:12]) // ipi_addr, the header's destination
		case h.Level == unix.SOL_UDP && h.Type == unix.UDP_GRO:
			size = uint16(binary.NativeEndian.Uint32(data))
		}
		rest = next
	}
	m.iovs[i].SetLen(int(m.hdrs[i].n))
	c := &m.controls[i]
	h := (*unix.Cmsghdr)(unsafe.Pointer(&c[0]))
	h.Level, h.Type = unix.SOL_IP, unix.IP_PKTINFO
	h.SetLen(unix.CmsgLen(unix.SizeofInet4Pktinfo))
	info := (*unix.Inet4Pktinfo)(unsafe.Pointer(&c[unix.CmsgLen(0)]))
	*info = unix.Inet4Pktinfo{Spec_dst: local}
	m.hdrs[i].hdr.Control = &c[0]
	m.hdrs[i].hdr.SetControllen(unix.CmsgSpace(unix.SizeofInet4Pktinfo))
	if size > 0 && m.hdrs[i].n > uint32(size) {
		m.segment(i, size, unix.CmsgSpace(unix.SizeofInet4Pktinfo))
	}
}

// received returns the i-th message's bytes.
func (m *messages) received(i int) []byte { return m.bufs[i][:m.hdrs[i].n] }
