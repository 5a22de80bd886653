package queue

import (
	"context"
	"sync/atomic"
)

// semaphore is a counting semaphore. It serves its waiters in order.
//
// Invariant: count is the number of permits added, minus the number taken,
// minus the number waited for.
//
//	count < 0    -count goroutines wait, and no token is sent for them yet
//	count >= 0   count permits are free; each goroutine that still waits has
//	             a token in the channel or about to be sent
//
// Tokens are interchangeable: any waiter may receive any of them.
type semaphore struct {
	count  atomic.Int64
	closed atomic.Bool
	waited atomic.Uint64 // acquires that had to wait
	tokens chan bool     // true is a permit, false reports that the semaphore closed
}

// tokensAhead is the number of tokens that can be sent before a waiter
// receives. When more goroutines than this have decided to wait but do not
// receive yet, a release blocks until the first of them does.
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

// add adds n permits and returns the number of waiters that now have one. If
// it is above zero, the caller must call wake with it.
func (s *semaphore) add(n int) int {
	before := s.count.Add(int64(n)) - int64(n)
	return int(min(int64(n), -before))
}

// wake sends n permits to waiters.
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
	// This load must follow the change of count: then either close sees this
	// waiter in the count, or this waiter sees that the semaphore is closed.
	if s.closed.Load() && s.withdraw() {
		return ErrClosed
	}
	s.waited.Add(1)
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

// withdraw gives up waiting. It reports false when each waiter has a token: the
// caller must then receive one.
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

// close wakes the waiters that have no token and makes later acquires fail
// instead of waiting. Free permits can still be taken.
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
