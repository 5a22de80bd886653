package netstack

import (
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// A synQueue decides which SYNs are dropped while more of them arrive than the
// processors can serve. The sign of overload is a queue of waiting requests that
// stays long. Without overload, each request starts at once, and the queue after a
// burst soon becomes short.
//
// SYNs with false sources can come faster than any work on them. So under
// overload those whose source has completed a handshake before are preferred.
// The sender of a SYN that was dropped sends it again.
type synQueue struct {
	waiting atomic.Int64 // requests whose handler has not started

	// Times since the start of the stack; they belong to synMu.
	longSince     time.Duration // when the queue became long; 0 = it is short
	overloadUntil time.Duration

	mu sync.Mutex
	// known are sources that have completed a handshake lately: the latest, at
	// most maxKnown, and those before them.
	known, older map[tcpip.Address]struct{}
}

const (
	longQueue    = 8                      // requests
	burstTime    = 100 * time.Millisecond // a long queue becomes short within this time, or it is an overload
	overloadTime = time.Second            // how long an overload lasts after its last dropped SYN
	longestQueue = 4096                   // requests, also of known sources
	maxKnown     = 4096
)

// full reports whether a SYN from the source is to be dropped. It is called
// with synMu held.
func (q *synQueue) full(source tcpip.Address, now func() time.Duration) bool {
	n := q.waiting.Load()
	if n < longQueue {
		q.longSince = 0
		return false
	}
	t := now()
	if q.longSince == 0 {
		q.longSince = t
	}
	overload := t < q.overloadUntil || t-q.longSince >= burstTime
	if !overload || q.knows(source) {
		return n >= longestQueue
	}
	q.overloadUntil = t + overloadTime
	return true
}

func (q *synQueue) knows(source tcpip.Address) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, ok := q.known[source]; ok {
		return true
	}
	_, ok := q.older[source]
	return ok
}

// completed notes that the source has completed a handshake.
func (q *synQueue) completed(source tcpip.Address) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, ok := q.known[source]; ok {
		return
	}
	if q.known == nil || len(q.known) >= maxKnown {
		q.known, q.older = make(map[tcpip.Address]struct{}), q.known
	}
	q.known[source] = struct{}{}
}
