package netstack

import (
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

func testSource(i int) tcpip.Address {
	return tcpip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
}

// A burst is served, and under overload the SYNs of sources that have completed
// a handshake.
func TestSYNQueue(t *testing.T) {
	var q synQueue
	known, unknown := testSource(1), testSource(2)
	q.completed(known)
	for _, step := range []struct {
		what    string
		at      time.Duration
		waiting int64
		known   bool // is dropped
		unknown bool
	}{
		{"no load", 1, longQueue - 1, false, false},
		{"the beginning of a burst", time.Second, longestQueue - 1, false, false},
		{"a burst that is too large", time.Second, longestQueue, true, true},
		{"almost too long", time.Second + burstTime - 1, longQueue, false, false},
		{"overload", time.Second + burstTime, longQueue, false, true},
		{"a short queue", time.Second + burstTime + 1, longQueue - 1, false, false},
		{"the same overload", time.Second + 2*burstTime, longQueue, false, true},
		{"too much of known sources", time.Second + 2*burstTime, longestQueue, true, true},
		{"a short queue again", 2 * time.Second, 0, false, false},
		{"another burst", 4 * time.Second, longQueue, false, false},
	} {
		q.waiting.Store(step.waiting)
		now := func() time.Duration { return step.at }
		if got := q.full(known, now); got != step.known {
			t.Errorf("%s: a known source is dropped %v", step.what, got)
		}
		if got := q.full(unknown, now); got != step.unknown {
			t.Errorf("%s: an unknown source is dropped %v", step.what, got)
		}
	}
}

// What is remembered of sources is bounded.
func TestSYNQueueKnown(t *testing.T) {
	var q synQueue
	for i := range 10 * maxKnown {
		q.completed(testSource(i))
	}
	if n := len(q.known) + len(q.older); n > 2*maxKnown {
		t.Errorf("%d sources are remembered", n)
	}
	if !q.knows(testSource(10*maxKnown - 1)) {
		t.Error("the latest source is forgotten")
	}
	if q.knows(testSource(0)) {
		t.Error("the first source is still remembered")
	}
}
