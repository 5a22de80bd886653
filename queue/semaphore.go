package queue

import (
	"context"
	"sync/atomic"
)

// semaphore is a counting semaphore. Its waiters are served in order.
//
// Invariant: count is the permits that were added less those that were taken
// or are waited for. Below zero, -count goroutines wait and no permit is
// on its way to them; at zero or above it is the number of free permits, and for
// everyone who still waits a token is in tokens or about to be sent. Free
// permits and goroutines left waiting never exist together.
//
// The tokens are alike, so it doesn't matter which waiter gets which.
type semaphore struct {
	count  atomic.Int64
	closed atomic.Bool
	waits  atomic.Uint64 // acquires that had to wait
	tokens chan bool     // true is a permit, false says that the semaphore closed
}

// tokensAhead is how many tokens may be sent before their receivers get to the
// channel. With more goroutines than this between deciding to wait and
// waiting, a release waits for the first of them.
const tokensAhead = 64

func (s *semaphore) init(permits int) {
	s.count.Store(int64(permits))
	s.tokens = make(chan bool, tokensAhead)
}

// free returns the number of free permits.
func (s *semaphore) free() int { return int(max(0, s.count.Load())) }

// tryAcquire takes up to limit free permits and returns how many it took.
func (s *semaphore) tryAcquire(limit int) int {
	for {
		have := s.count.Load()
		n := min(have, int64(limit))
		if n <= 0 {
			return 0
		}
		if s.count.CompareAndSwap(have, have-n) {
			return int(n)
		}
	}
}

// add adds n permits and returns how many waiters one of them is due to. The
// caller must then call wake with that number, if it is above zero.
func (s *semaphore) add(n int) int {
	before := s.count.Add(int64(n)) - int64(n)
	return int(min(int64(n), -before))
}

// wake sends n of the permits that add counted to those who wait.
func (s *semaphore) wake(n int) {
	for ; n > 0; n-- {
		s.tokens <- true
	}
}

// acquire takes one permit, waiting for it while there is none. It returns
// ErrClosed when the semaphore is closed and has none, and ctx's error when
// ctx ends first.
func (s *semaphore) acquire(ctx context.Context) error {
	if s.count.Add(-1) >= 0 {
		return nil
	}
	// Looked at after the count has told close of this waiter, so that
	// one of the two sees the other.
	if s.closed.Load() && s.withdraw() {
		return ErrClosed
	}
	s.waits.Add(1)
	permit := false
	if done := ctx.Done(); done == nil {
		permit = <-s.tokens
	} else {
		select {
		case permit = <-s.tokens:
		case <-done:
			if s.withdraw() {
				return ctx.Err()
			}
			permit = <-s.tokens
		}
	}
	if !permit {
		return ErrClosed
	}
	return nil
}

// withdraw stops waiting. It reports false when a token is on its way to everyone
// who waits: the caller must then take one.
func (s *semaphore) withdraw() bool {
	for {
		c := s.count.Load()
		if c >= 0 {
			return false
		}
		if s.count.CompareAndSwap(c, c+1) {
			return true
		}
	}
}

// close wakes everyone to whom no permit is on its way, and lets nobody wait
// any more. Free permits stay to be taken.
func (s *semaphore) close() {
	s.closed.Store(true)
	for {
		c := s.count.Load()
		if c >= 0 {
			return
		}
		if s.count.CompareAndSwap(c, 0) {
			for ; c < 0; c++ {
				s.tokens <- false
			}
			return
		}
	}
}
