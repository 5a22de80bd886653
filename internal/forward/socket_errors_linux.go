package forward

import (
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"netstackd/internal/ippkt"
)

// errorBatch is how many errors are read at a time.
const errorBatch = 16

// lateError is an entry of a socket's error queue (IP_RECVERR in ip(7)).
type lateError struct {
	dst      netip.AddrPort // of the datagram
	offender netip.Addr     // who reported it
	ee       unix.SockExtendedErr
	payload  []byte // what came back of it
}

// errorReader is the scratch space for reading one.
type errorReader struct {
	hdr  unix.Msghdr
	iov  unix.Iovec
	name sockaddr
	ctl  [256]byte
	buf  [ippkt.MaxICMPError]byte
}

// read takes one entry off the socket's error queue, and reports whether there
// was one.
func (r *errorReader) read(fd int, e *lateError) bool {
	r.iov.Base = &r.buf[0]
	r.iov.SetLen(len(r.buf))
	r.name.Family = unix.AF_UNSPEC
	r.hdr = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&r.name)), Namelen: unix.SizeofSockaddrInet6, Iov: &r.iov, Control: &r.ctl[0]}
	r.hdr.SetIovlen(1)
	r.hdr.SetControllen(len(r.ctl))
	n, _, errno := unix.Syscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&r.hdr)), unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
	if errno != 0 {
		return false
	}
	*e = lateError{dst: getSockaddr(&r.name), payload: r.buf[:n]}
	for ctl := r.ctl[:r.hdr.Controllen]; ; {
		level, typ, data, rest := nextCmsg(ctl)
		if rest == nil {
			return true
		}
		if level == unix.SOL_IP && typ == unix.IP_RECVERR || level == unix.SOL_IPV6 && typ == unix.IPV6_RECVERR {
			e.parse(data)
		}
		ctl = rest
	}
}

// parse reads a struct sock_extended_err and the address behind it.
func (e *lateError) parse(data []byte) {
	const size = int(unsafe.Sizeof(e.ee))
	if len(data) < size {
		return
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&e.ee)), size), data)
	var sa sockaddr
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&sa)), unsafe.Sizeof(sa)), data[size:])
	e.offender = getSockaddr(&sa).Addr()
}

// icmp returns the ICMP message that the entry stands for, and whether it is
// one to pass on.
func (e *lateError) icmp() (ippkt.ICMPError, bool) {
	m := ippkt.ICMPError{From: e.offender, Type: e.ee.Type, Code: e.ee.Code, Info: e.ee.Info}
	if !ippkt.Unicast(m.From) {
		m.From = e.dst.Addr()
	}
	switch e.ee.Origin {
	case unix.SO_EE_ORIGIN_ICMP:
		if m.Type == ippkt.ICMP4ParamProblem {
			m.Info <<= 24 // the pointer is the first of the four bytes (RFC 792)
		}
		return m, m.Type == ippkt.ICMP4Unreachable || m.Type == ippkt.ICMP4TimeExceeded || m.Type == ippkt.ICMP4ParamProblem
	case unix.SO_EE_ORIGIN_ICMP6:
		return m, m.Type >= ippkt.ICMP6Unreachable && m.Type <= ippkt.ICMP6ParamProblem
	}
	return m, false
}

// drainErrors tells the application of what is on the socket's error queue.
// It reports whether it reached the end.
func (k *hostSocket) drainErrors() bool {
	u := k.s.u
	r := u.scratch.errors.Get().(*errorReader)
	defer u.scratch.errors.Put(r)
	var e lateError
	for range errorBatch {
		if !r.read(k.fd, &e) {
			return true
		}
		if e.ee.Origin == unix.SO_EE_ORIGIN_LOCAL {
			if unix.Errno(e.ee.Errno) == unix.EMSGSIZE {
				k.learnMTU(e.dst.Addr(), e.ee.Info)
			}
			continue
		}
		if m, ok := e.icmp(); ok {
			if q, ok := k.quoted(&e); ok {
				u.counters.errors.Add(1)
				u.out.icmp(k.s.hash, m, &q)
			}
		}
	}
	return false
}

// mtuMemory is how long a path's MTU is taken to be what the kernel said.
const mtuMemory = time.Second

// tellMTU tells the sender of a packet that it is too long for its path. How
// long may be is on the error queue, which for IPv4 doesn't say the port.
// Either goroutine that serves the socket may come to read it.
func (k *hostSocket) tellMTU(q ippkt.Quote) {
	k.mu.Lock()
	k.big, k.isBig = q, true
	k.mu.Unlock()
	k.drainErrors()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.mtu.dst == q.Dst && k.s.u.now()-k.mtu.when < mtuMemory {
		k.tellLocked()
	}
}

// learnMTU notes the MTU of the path to dst.
func (k *hostSocket) learnMTU(dst netip.Addr, mtu uint32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mtu.dst, k.mtu.bytes, k.mtu.when = dst, mtu, k.s.u.now()
	if k.big.Dst == dst {
		k.tellLocked()
	}
}

func (k *hostSocket) tellLocked() {
	if k.isBig {
		k.isBig = false
		k.s.u.localError(k.s.hash, ippkt.TooBig(k.big.Dst, k.mtu.bytes), &k.big)
	}
}
