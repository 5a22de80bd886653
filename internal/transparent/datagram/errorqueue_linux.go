package datagram

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"netstackd/internal/ippkt"
	"netstackd/internal/sys"
)

// errorBatch is how many errors are read at a time.
const errorBatch = 16

// icmpOf returns the ICMP message that an entry of the error queue stands for,
// and whether it is one to pass on.
func icmpOf(e *sys.QueuedError) (ippkt.ICMPError, bool) {
	m := ippkt.ICMPError{From: e.Offender, Type: e.Err.Type, Code: e.Err.Code, Info: e.Err.Info}
	if !ippkt.Unicast(m.From) {
		m.From = e.Dst.Addr()
	}
	switch e.Err.Origin {
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

// drainErrors sends the application an ICMP error for each entry of the socket's
// error queue, up to errorBatch. It reports whether the queue is empty.
func (k *hostSocket) drainErrors() bool {
	u := k.s.set
	r := u.scratch.errors.Get().(*sys.ErrorReader)
	defer u.scratch.errors.Put(r)
	var e sys.QueuedError
	for range errorBatch {
		if !r.Read(k.fd, &e) {
			return true
		}
		if e.Err.Origin == unix.SO_EE_ORIGIN_LOCAL {
			if unix.Errno(e.Err.Errno) == unix.EMSGSIZE {
				k.learnMTU(e.Dst.Addr(), e.Err.Info)
			}
			continue
		}
		if m, ok := icmpOf(&e); ok {
			if q, ok := k.quoted(&e); ok {
				u.counters.errors.Add(1)
				u.outlet.ICMP(k.s.hash, m, &q)
			}
		}
	}
	return false
}

// mtuMemory is how long a path's MTU is taken to be what the kernel said.
const mtuMemory = time.Second

// tellMTU sends the ICMP error for a packet that is too long for its path. The
// MTU is on the error queue, which for IPv4 lacks the port. Either goroutine that
// serves the socket may read it.
func (k *hostSocket) tellMTU(q ippkt.Quote) {
	k.mu.Lock()
	k.big, k.isBig = q, true
	k.mu.Unlock()
	k.drainErrors()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.mtu.dst == q.Dst && k.s.set.now()-k.mtu.when < mtuMemory {
		k.tellLocked()
	}
}

// learnMTU notes the MTU of the path to dst.
func (k *hostSocket) learnMTU(dst netip.Addr, mtu uint32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mtu.dst, k.mtu.bytes, k.mtu.when = dst, mtu, k.s.set.now()
	if k.big.Dst == dst {
		k.tellLocked()
	}
}

func (k *hostSocket) tellLocked() {
	if k.isBig {
		k.isBig = false
		k.s.set.localError(k.s.hash, ippkt.TooBig(k.big.Dst, k.mtu.bytes), &k.big)
	}
}
