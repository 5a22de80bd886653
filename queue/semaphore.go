package queue

import (
	"context"
	"sync"
	"sync/atomic"
)

// semaphore is a counting semaphore whose waiters are served in order.
//
// Invariant: with count below zero, -count waiters of the list have no permit
// on its way; with count at zero or above, it is the number of free permits and
// every waiter still in the list has one on its way (a grant is about to be called).
// Free permits and waiters without one never exist together.
type semaphore struct {
	count atomic.Int64

	mu     sync.Mutex
	first  *waiter // waited longest
	last   *waiter
	free   *waiter // waiters to use again
	waits  uint64  // acquires that had to wait
	closed bool
}

// waiter is one goroutine's place in a semaphore's list.
type waiter struct {
	wake       chan struct{} // capacity 1; exactly one send for each wait
	prev, next *waiter
	queued     bool
	granted    bool // whether the wake-up brings a permit; else the semaphore closed
}

// len returns the number of free permits.
func (s *semaphore) len() int { return int(max(0, s.count.Load())) }

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

// add adds n permits and returns how many waiters are due one of them: the
// caller must call grant with that number if it is above zero.
func (s *semaphore) add(n int) int {
	before := s.count.Add(int64(n)) - int64(n)
	return int(min(int64(n), -before))
}

// release adds n permits and wakes those who waited for them.
func (s *semaphore) release(n int) {
	if wake := s.add(n); wake > 0 {
		s.grant(wake)
	}
}

// grant hands n permits that add has promised to the first n waiters.
func (s *semaphore) grant(n int) {
	s.mu.Lock()
	var woken *waiter
	for ; n > 0; n-- {
		w := s.first
		s.remove(w)
		w.granted = true
		w.next, woken = woken, w
	}
	s.mu.Unlock()
	wakeAll(woken)
}

// acquire takes one permit, waiting for it while there is none. It returns
// ErrClosed when the semaphore is closed and has none, and ctx's error when
// ctx ends first.
func (s *semaphore) acquire(ctx context.Context) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		if s.tryAcquire(1) == 1 {
			return nil
		}
		return ErrClosed
	}
	if s.count.Add(-1) >= 0 { // a permit has come since the caller looked
		s.mu.Unlock()
		return nil
	}
	w := s.enqueue()
	s.mu.Unlock()

	if done := ctx.Done(); done == nil {
		<-w.wake
	} else {
		select {
		case <-w.wake:
		case <-done:
			if s.cancel(w) {
				return ctx.Err()
			}
			<-w.wake // a permit or the close is on its way
		}
	}

	s.mu.Lock()
	granted := w.granted
	s.recycle(w)
	s.mu.Unlock()
	if !granted {
		return ErrClosed
	}
	return nil
}

// cancel takes w out of the list. It reports false when w has been, or is
// about to be, given a permit: the permit is then w's to use.
func (s *semaphore) cancel(w *waiter) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !w.queued {
		return false
	}
	for {
		c := s.count.Load()
		if c >= 0 {
			return false // every waiter in the list has a permit on its way
		}
		if s.count.CompareAndSwap(c, c+1) {
			break
		}
	}
	s.remove(w)
	s.recycle(w)
	return true
}

// close wakes every waiter that has no permit on its way, and lets nobody wait
// any more. Free permits stay to be taken.
func (s *semaphore) close() {
	s.mu.Lock()
	s.closed = true
	var n int64
	for {
		c := s.count.Load()
		if n = -c; n <= 0 || s.count.CompareAndSwap(c, 0) {
			break
		}
	}
	// Those in front have been promised theirs: the last n go.
	var woken *waiter
	for ; n > 0; n-- {
		w := s.last
		s.remove(w)
		w.next, woken = woken, w
	}
	s.mu.Unlock()
	wakeAll(woken)
}

// wakeAll wakes a chain of waiters, first to last. It needs no lock: a waiter
// out of the list is its waker's until it is woken.
func wakeAll(w *waiter) {
	for w != nil {
		next := w.next // w may be waiting again, elsewhere, right after the send
		w.wake <- struct{}{}
		w = next
	}
}
