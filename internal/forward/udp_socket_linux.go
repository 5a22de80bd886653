package forward

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"netstackd/internal/epoll"
)

// socket is the carrier over a host socket. Its descriptor is a duplicate of
// that of the net.UDPConn, which is closed: the Go runtime's poller would else
// wake up for each packet, beside ours.
//
// Sending happens on the goroutine that delivers packets, without waiting:
// what does not fit the socket's buffer is dropped, as a router would.
type socket struct {
	s     *session
	fd    int
	task  epoll.Task
	watch atomic.Pointer[epoll.Watch]

	// Of the sender.
	mode     int           // IP_MTU_DISCOVER as set, -1 at first
	maxSeg   int           // longest segment that UDP_SEGMENT may have
	narrowed time.Duration // when maxSeg was lowered

	// Of the task.
	errorsLeft bool // the error queue was not read to its end

	mu  sync.Mutex
	mtu struct { // of the last path that was too narrow
		dst   netip.Addr
		bytes uint32
		when  time.Duration
	}
	big struct { // the last datagram that was too big, until its MTU is known
		dst  netip.AddrPort
		size int
	}
}

// ownSegments is the segment size up to which datagrams of one size are sent
// as a train unasked: larger ones are likely to exceed the path's MTU.
const ownSegments = 1452

func newSocket(s *session, c *net.UDPConn) (*socket, error) {
	defer c.Close()
	rc, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	k := &socket{s: s, fd: -1, mode: -1, maxSeg: maxPacket}
	if cerr := rc.Control(func(fd uintptr) {
		k.fd, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	}); cerr != nil {
		return nil, cerr
	}
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	if err := k.setOptions(); err != nil {
		unix.Close(k.fd)
		return nil, err
	}
	k.task.Init(s.u.loop, k.run)
	return k, nil
}

func (k *socket) v4() bool { return k.s.src.Addr().Is4() }

// setOptions turns on what receive and errors read from control messages.
func (k *socket) setOptions() error {
	opts := [...]struct {
		level, name int
		what        string
	}{
		{unix.SOL_IP, unix.IP_RECVERR, "IP_RECVERR"},
		{unix.SOL_IP, unix.IP_RECVTOS, "IP_RECVTOS"},
	}
	if !k.v4() {
		opts[0].level, opts[0].name, opts[0].what = unix.SOL_IPV6, unix.IPV6_RECVERR, "IPV6_RECVERR"
		opts[1].level, opts[1].name, opts[1].what = unix.SOL_IPV6, unix.IPV6_RECVTCLASS, "IPV6_RECVTCLASS"
	}
	for _, o := range opts {
		if err := unix.SetsockoptInt(k.fd, o.level, o.name, 1); err != nil {
			return fmt.Errorf("setsockopt %s: %w", o.what, err)
		}
	}
	// Linux 5.0. Without it each datagram comes by itself, which is only slower.
	_ = unix.SetsockoptInt(k.fd, unix.SOL_UDP, unix.UDP_GRO, 1)
	return nil
}

func (k *socket) start() {
	w, err := k.s.u.loop.Add(k.fd, unix.EPOLLIN, &k.task)
	if err != nil {
		k.s.u.log.Debug("udp session lost", "proto", "udp", "src", k.s.src, "err", err)
		k.s.close()
		return
	}
	k.watch.Store(w)
}

func (k *socket) waits() bool { return false }
func (k *socket) interrupt()  {}

func (k *socket) destroy() {
	k.task.Stop()
	if w := k.watch.Load(); w != nil {
		w.Remove()
	}
	unix.Close(k.fd)
}

// setMode makes the kernel set the don't-fragment bit and refuse what is
// longer than the path's MTU, or neither. An application's kernel does the
// same for its socket; we only learn which by the bit on its packets.
func (k *socket) setMode(df bool) {
	mode := unix.IP_PMTUDISC_DONT
	if df {
		mode = unix.IP_PMTUDISC_DO
	}
	if mode == k.mode {
		return
	}
	k.mode = mode
	// The values are the same for both families. It fails for no socket that
	// is one of UDP.
	if k.v4() {
		_ = unix.SetsockoptInt(k.fd, unix.SOL_IP, unix.IP_MTU_DISCOVER, mode)
	} else {
		_ = unix.SetsockoptInt(k.fd, unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, mode)
	}
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

func sendmmsg(fd int, msgs []mmsghdr) (int, unix.Errno) {
	n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

func recvmmsg(fd int, msgs []mmsghdr) (int, unix.Errno) {
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

// sockaddr is room for the address of either family.
type sockaddr = unix.RawSockaddrInet6

// putSockaddr writes a and returns its length.
func putSockaddr(sa *sockaddr, a netip.AddrPort) uint32 {
	if a.Addr().Is4() {
		s4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		*s4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: a.Addr().As4()}
		putPort(&s4.Port, a.Port())
		return unix.SizeofSockaddrInet4
	}
	*sa = sockaddr{Family: unix.AF_INET6, Addr: a.Addr().As16()}
	putPort(&sa.Port, a.Port())
	return unix.SizeofSockaddrInet6
}

// getSockaddr returns the address in sa, the zero value if it is of another family.
func getSockaddr(sa *sockaddr) netip.AddrPort {
	switch sa.Family {
	case unix.AF_INET:
		s4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom4(s4.Addr), getPort(&s4.Port))
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), getPort(&sa.Port))
	}
	return netip.AddrPort{}
}

// Ports are in network byte order in a field that is declared as a number.

func putPort(p *uint16, port uint16) {
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(p))[:], port)
}

func getPort(p *uint16) uint16 {
	return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(p))[:])
}
