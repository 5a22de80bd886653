package link

import (
	"hash/maphash"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Forwarding an ICMP packet costs as much as forwarding 64 KB of TCP, and its
// sender does not slow down after a loss. A flood would starve all other flows.
// ICMP beyond the limits is dropped right after the read. If the reader waited for
// room instead, the device's own queue would overflow and drop other flows' packets.
// No path measurement needs more packets than this.
const (
	// icmpShare is the part of an ingress queue that ICMP may fill: one in so many.
	icmpShare = 4
	// icmpPerSecond is how many packets of one host are delivered.
	icmpPerSecond = 2000
	icmpEach      = time.Second / icmpPerSecond
	icmpBurst     = 1000
	icmpBuckets   = 64 // hosts that share a bucket by their hash share its rate
)

// isICMP reports whether a packet, given by its first bytes, is ICMP of either
// version with nothing between it and the IP header.
func isICMP(b []byte) bool {
	if b[0]>>4 == header.IPv4Version {
		return b[9] == uint8(header.ICMPv4ProtocolNumber)
	}
	return b[6] == uint8(header.ICMPv6ProtocolNumber)
}

// icmpLimit bounds the rate of each host's ICMP. The readers of all queues
// share it.
type icmpLimit struct {
	seed  maphash.Seed
	start time.Time
	// spent is the time, since start, for which a bucket's rate is used up. It is
	// at most the present, and no more than a burst before it counts (the generic
	// cell rate algorithm).
	spent [icmpBuckets]atomic.Int64
}

// init fills the buckets: each has a burst to spend.
func (l *icmpLimit) init() {
	l.seed, l.start = maphash.MakeSeed(), time.Now().Add(-icmpBurst*icmpEach)
}

// allow reports whether a packet, given by its IP header, is within the limit.
func (l *icmpLimit) allow(b []byte) bool {
	src := b[8:24]
	if b[0]>>4 == header.IPv4Version {
		src = b[12:16]
	}
	spent := &l.spent[maphash.Bytes(l.seed, src)%icmpBuckets]
	now := int64(time.Since(l.start))
	for {
		old := spent.Load()
		next := max(old, now-int64(icmpBurst*icmpEach)) + int64(icmpEach)
		if next > now {
			return false
		}
		if spent.CompareAndSwap(old, next) {
			return true
		}
	}
}
