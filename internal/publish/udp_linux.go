package publish

import (
	"encoding/binary"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// controlSpace is room for one IP_PKTINFO or IPV6_PKTINFO.
const controlSpace = 64

// reportLocal makes the kernel tell for each datagram which of the host's
// addresses it was sent to.
func (p *udpPort) reportLocal() error {
	raw, err := p.conn.SyscallConn()
	if err != nil {
		return err
	}
	p.local = true
	if cerr := raw.Control(func(fd uintptr) {
		// A socket of IPv6 with IPv4 uses the IPv6 option for both.
		if err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1); err != nil {
			err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_PKTINFO, 1)
		}
	}); cerr != nil {
		return cerr
	}
	return os.NewSyscallError("setsockopt IP_PKTINFO", err)
}

// local is the address of the host that a client sends to. The zero value leaves
// the source of answers to the kernel.
type local struct {
	addr  netip.Addr // IPv4-mapped where the socket is of both families
	index uint32     // the interface, of a link-local address only
}

// parseLocal reads the control message of a datagram.
func parseLocal(oob []byte) (l local) {
	h, data, _, err := unix.ParseOneSocketControlMessage(oob)
	if err != nil {
		return local{}
	}
	switch { // the layouts are those of ip(7) and RFC 3542 §6
	case h.Level == unix.SOL_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
		l.addr = netip.AddrFrom4([4]byte(data[4:8])) // ipi_spec_dst, ours also for a broadcast
	case h.Level == unix.SOL_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
		l.addr = netip.AddrFrom16([16]byte(data[:16]))
		if l.addr.IsLinkLocalUnicast() && !l.addr.Is4In6() {
			l.index = binary.NativeEndian.Uint32(data[16:20])
		}
	}
	if a := l.addr.Unmap(); a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return local{}
	}
	return l
}

// control is the control message that sends from l, nil for the zero value.
func (l local) control() []byte {
	switch {
	case !l.addr.IsValid():
		return nil
	case l.addr.Is4():
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: l.addr.As4()})
	}
	return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: l.addr.As16(), Ifindex: l.index})
}

// readNow reads a datagram from a socket that does not block. It reports false
// when there is none.
func readNow(fd uintptr, b []byte) (n int, err error, ok bool) {
	for {
		n, err = unix.Read(int(fd), b)
		switch err {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return 0, nil, false
		}
		return n, err, true
	}
}
