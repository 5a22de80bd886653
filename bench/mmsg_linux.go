package bench

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"netstackd/internal/sys"
)

// controlLen has room for IP_PKTINFO and one of UDP_GRO and UDP_SEGMENT.
const controlLen = 64

// messages are a batch of datagrams, or of trains of them, and the memory that
// they are in.
type messages struct {
	hdrs     []sys.Mmsghdr
	iovs     []unix.Iovec
	names    []unix.RawSockaddrInet4
	controls [][controlLen]byte
	bufs     [][]byte
}

// newMessages makes n of a size, with room for a name and for control messages.
func newMessages(n, size int) *messages {
	m := &messages{
		hdrs:     make([]sys.Mmsghdr, n),
		iovs:     make([]unix.Iovec, n),
		names:    make([]unix.RawSockaddrInet4, n),
		controls: make([][controlLen]byte, n),
		bufs:     make([][]byte, n),
	}
	for i := range m.hdrs {
		m.bufs[i] = make([]byte, size)
		m.set(i, m.bufs[i])
		m.hdrs[i].Hdr.Iov = &m.iovs[i]
		m.hdrs[i].Hdr.SetIovlen(1)
	}
	return m
}

func (m *messages) set(i int, b []byte) {
	sys.SetIovec(&m.iovs[i], b)
}

// receive waits for one datagram and takes more if there are. Names and control
// messages come with them where asked for.
func (m *messages) receive(fd int, meta bool) (int, error) {
	for i := range m.hdrs {
		m.iovs[i].SetLen(len(m.bufs[i]))
		if meta {
			m.hdrs[i].Hdr.Name = (*byte)(unsafe.Pointer(&m.names[i]))
			m.hdrs[i].Hdr.Namelen = unix.SizeofSockaddrInet4
			m.hdrs[i].Hdr.Control = &m.controls[i][0]
			m.hdrs[i].Hdr.SetControllen(controlLen)
		}
	}
	return again(func() (int, unix.Errno) { return sys.Recvmmsg(fd, m.hdrs, unix.MSG_WAITFORONE) })
}

// send sends the first n; the error is that of the first that was not sent.
func (m *messages) send(fd, n int) (int, error) {
	return again(func() (int, unix.Errno) { return sys.Sendmmsg(fd, m.hdrs[:n], 0) })
}

// again repeats a call that a signal interrupts.
func again(call func() (int, unix.Errno)) (int, error) {
	for {
		n, errno := call()
		switch errno {
		case 0:
			return n, nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// segment makes message i a train of segments of a size (UDP_SEGMENT), on top
// of the control messages that are there.
func (m *messages) segment(i int, size uint16, at int) {
	n := sys.PutCmsg16(m.controls[i][at:], unix.SOL_UDP, unix.UDP_SEGMENT, size)
	m.hdrs[i].Hdr.Control = &m.controls[i][0]
	m.hdrs[i].Hdr.SetControllen(at + n)
}

// turn makes an answer of the received message i: the same bytes, from the
// address that was asked, cut into datagrams as they came.
func (m *messages) turn(i int) {
	var local [4]byte
	var size uint16
	for rest := m.controls[i][:m.hdrs[i].Hdr.Controllen]; ; {
		level, typ, data, next := sys.NextCmsg(rest)
		if next == nil {
			break
		}
		switch {
		case level == unix.SOL_IP && typ == unix.IP_PKTINFO:
			copy(local[:], data[8:12]) // ipi_addr, the header's destination
		case level == unix.SOL_UDP && typ == unix.UDP_GRO:
			size = uint16(sys.CmsgValue(data))
		}
		rest = next
	}
	m.iovs[i].SetLen(int(m.hdrs[i].N))
	c := &m.controls[i]
	h := (*unix.Cmsghdr)(unsafe.Pointer(&c[0]))
	h.Level, h.Type = unix.SOL_IP, unix.IP_PKTINFO
	h.SetLen(unix.CmsgLen(unix.SizeofInet4Pktinfo))
	info := (*unix.Inet4Pktinfo)(unsafe.Pointer(&c[unix.CmsgLen(0)]))
	*info = unix.Inet4Pktinfo{Spec_dst: local}
	m.hdrs[i].Hdr.Control = &c[0]
	m.hdrs[i].Hdr.SetControllen(unix.CmsgSpace(unix.SizeofInet4Pktinfo))
	if size > 0 && m.hdrs[i].N > uint32(size) {
		m.segment(i, size, unix.CmsgSpace(unix.SizeofInet4Pktinfo))
	}
}

// received returns the i-th message's bytes.
func (m *messages) received(i int) []byte { return m.bufs[i][:m.hdrs[i].N] }
