package sys

import (
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// QueuedError is an entry of a socket's error queue (IP_RECVERR in ip(7)).
type QueuedError struct {
	Dst      netip.AddrPort // of the datagram that the error is about
	Offender netip.Addr     // the host or router that reported it
	Err      unix.SockExtendedErr
	Payload  []byte // as much of the datagram as came back; valid until the next Read
}

// maxReturned is how much of a datagram is read: the longest ICMP error has
// less (RFC 4443 §2.4 (c)).
const maxReturned = 1280

// ErrorReader is the scratch space for reading an error queue. It is not safe
// for concurrent use.
type ErrorReader struct {
	hdr  unix.Msghdr
	iov  unix.Iovec
	name Sockaddr
	ctl  [256]byte
	buf  [maxReturned]byte
}

// Read takes one entry off the socket's error queue without waiting, and
// reports whether there was one.
func (r *ErrorReader) Read(fd int, e *QueuedError) bool {
	SetIovec(&r.iov, r.buf[:])
	r.name.Family = unix.AF_UNSPEC
	r.hdr = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&r.name)), Namelen: unix.SizeofSockaddrInet6, Iov: &r.iov, Control: &r.ctl[0]}
	r.hdr.SetIovlen(1)
	r.hdr.SetControllen(len(r.ctl))
	n, _, errno := unix.Syscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&r.hdr)), unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
	if errno != 0 {
		return false
	}
	*e = QueuedError{Dst: GetSockaddr(&r.name), Payload: r.buf[:n]}
	for ctl := r.ctl[:r.hdr.Controllen]; ; {
		level, typ, data, rest := NextCmsg(ctl)
		if rest == nil {
			return true
		}
		if level == unix.SOL_IP && typ == unix.IP_RECVERR || level == unix.SOL_IPV6 && typ == unix.IPV6_RECVERR {
			e.parse(data)
		}
		ctl = rest
	}
}

// parse reads a struct sock_extended_err and the address of the offender behind
// it.
func (e *QueuedError) parse(data []byte) {
	const size = int(unsafe.Sizeof(e.Err))
	if len(data) < size {
		return
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&e.Err)), size), data)
	var sa Sockaddr
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&sa)), unsafe.Sizeof(sa)), data[size:])
	e.Offender = GetSockaddr(&sa).Addr()
}
