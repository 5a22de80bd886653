package netstack

import (
	"hash/maphash"
	"net/netip"
	"sync/atomic"

	"golang.org/x/time/rate"
)

// How many ICMP errors go to one socket, to one host, and in all. Each bound
// leaves room for others within the next one: a flood from one socket does not
// cost the other sockets of its host their errors, nor one host the others.
const (
	errorsPerSocket, socketBurst = 100, 50 // a second; at once
	errorsPerHost, hostBurst     = 1000, 250
	errorsInAll, allBurst        = 10_000, 1000 // as net.ipv4.icmp_msgs_per_sec
)

// errorBuckets is how many rates are kept for sockets, and for hosts. Those
// that share a bucket by their hash share its rate.
const errorBuckets = 256 // a power of two

// ErrorLimit bounds the ICMP errors that are made here (RFC 1812 §4.3.2.8,
// RFC 4443 §2.4 (f)). Errors that the network reports need no bound: they come
// as fast as it sends them. Use NewErrorLimit.
type ErrorLimit struct {
	seed           maphash.Seed
	all            *rate.Limiter
	hosts, sockets [errorBuckets]*rate.Limiter
	suppressed     atomic.Uint64
}

// NewErrorLimit returns a limit of which nothing is used.
func NewErrorLimit() *ErrorLimit {
	l := &ErrorLimit{seed: maphash.MakeSeed(), all: rate.NewLimiter(errorsInAll, allBurst)}
	for i := range errorBuckets {
		l.hosts[i] = rate.NewLimiter(errorsPerHost, hostBurst)
		l.sockets[i] = rate.NewLimiter(errorsPerSocket, socketBurst)
	}
	return l
}

// Allow reports whether an error may be sent now. To is the sender of the
// packet that it is about; the port is 0 where there is none.
func (l *ErrorLimit) Allow(to netip.AddrPort) bool {
	socket := l.sockets[maphash.Comparable(l.seed, to)%errorBuckets]
	host := l.hosts[maphash.Comparable(l.seed, to.Addr())%errorBuckets]
	// A socket's bucket is charged only if its host's has a token. Otherwise a flood
	// from all ports of one host would empty the buckets of all sockets.
	if l.all.Tokens() >= 1 && host.Tokens() >= 1 && socket.Allow() && host.Allow() && l.all.Allow() {
		return true
	}
	l.suppressed.Add(1)
	return false
}

// Suppressed returns how many errors were not sent.
func (l *ErrorLimit) Suppressed() uint64 { return l.suppressed.Load() }
