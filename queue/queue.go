package queue

import (
	"context"
	"errors"
	"sync"
)

// ErrClosed is returned by Put on a closed queue and by Get on a closed queue
// from which everything has been taken.
var ErrClosed = errors.New("queue: closed")

// Queue is a bounded first-in first-out queue of T. Make one with [New]. All
// methods may be called by any number of goroutines at once.
type Queue[T any] struct {
	ring []T

	_     pad
	slots semaphore // empty slots
	_     pad
	items semaphore // filled slots
	_     pad
	in    producers
	_     pad
	out   consumers
}

// producers is the side that Put works on.
type producers struct {
	mu      sync.Mutex
	tail    int    // next slot to fill
	puts    uint64 // values put
	refused uint64 // TryPut found no room
	closed  bool
}

// consumers is the side that Get works on.
type consumers struct {
	mu   sync.Mutex
	head int    // next slot to empty
	gets uint64 // batches taken
}

// pad keeps the words that producers write off the cache lines that consumers
// write: 128 bytes, since processors fetch lines in pairs.
type pad [128]byte

// New returns an empty queue with room for capacity values. It panics when
// capacity is less than one.
func New[T any](capacity int) *Queue[T] {
	if capacity < 1 {
		panic("queue: capacity must be at least 1")
	}
	q := &Queue[T]{ring: make([]T, capacity)}
	q.slots.init(capacity)
	q.items.init(0)
	return q
}

// Put appends v, waiting for room while the queue is full. It returns
// [ErrClosed] when the queue is or gets closed, and ctx's error when ctx ends
// first; v is then not in the queue. While there is room, ctx is ignored.
func (q *Queue[T]) Put(ctx context.Context, v T) error {
	if q.slots.tryAcquire(1) == 0 {
		if err := q.slots.acquire(ctx); err != nil {
			return err
		}
	}
	if !q.put(v) {
		return ErrClosed
	}
	return nil
}

// TryPut appends v if there is room at once, and reports whether it did.
// A closed queue has none.
func (q *Queue[T]) TryPut(v T) bool {
	if q.slots.tryAcquire(1) == 0 {
		q.in.mu.Lock()
		q.in.refused++
		q.in.mu.Unlock()
		return false
	}
	return q.put(v)
}

// put fills the slot that the caller has acquired. It reports false when the
// queue is closed.
func (q *Queue[T]) put(v T) bool {
	p := &q.in
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return false
	}
	q.ring[p.tail] = v
	if p.tail++; p.tail == len(q.ring) {
		p.tail = 0
	}
	p.puts++
	// The item is counted under the lock, so that Close happens before or after
	// the whole Put. The wake-up follows the unlock, so that other producers
	// do not wait for it.
	wake := q.items.add(1)
	p.mu.Unlock()
	if wake > 0 {
		q.items.wake(wake)
	}
	return true
}

// Get moves what the queue holds, up to len(dst) values, oldest first, to dst
// and returns how many it moved. It waits until there is at least one. It
// returns [ErrClosed] once the queue is closed and empty, and ctx's error when
// ctx ends first. While there are values, ctx is ignored. With an empty dst it
// returns 0, nil at once.
func (q *Queue[T]) Get(ctx context.Context, dst []T) (int, error) {
	if len(dst) == 0 {
		return 0, nil
	}
	n := q.items.tryAcquire(len(dst))
	if n == 0 {
		if err := q.items.acquire(ctx); err != nil {
			return 0, err
		}
		// acquire took one item. More items may have been added since.
		n = 1 + q.items.tryAcquire(len(dst)-1)
	}
	q.take(dst[:n])
	return n, nil
}

// TryGet is Get without the wait: it returns 0 when there is nothing.
func (q *Queue[T]) TryGet(dst []T) int {
	n := q.items.tryAcquire(len(dst))
	if n > 0 {
		q.take(dst[:n])
	}
	return n
}

// take moves the oldest len(dst) values to dst. The caller has acquired them.
func (q *Queue[T]) take(dst []T) {
	c := &q.out
	c.mu.Lock()
	n := moveOut(dst, q.ring[c.head:])
	n += moveOut(dst[n:], q.ring)
	if c.head += n; c.head >= len(q.ring) {
		c.head -= len(q.ring)
	}
	c.gets++
	c.mu.Unlock()
	if wake := q.slots.add(n); wake > 0 {
		q.slots.wake(wake)
	}
}

// moveOut copies from slots to dst and zeroes what it copied, so that the ring
// keeps nothing alive that has been taken.
func moveOut[T any](dst, slots []T) int {
	n := copy(dst, slots)
	clear(slots[:n])
	return n
}

// Close makes waiting and later calls of Put fail with [ErrClosed]. Values
// already in the queue can still be taken; after the last one, Get fails with
// ErrClosed. Close is idempotent.
func (q *Queue[T]) Close() {
	q.in.mu.Lock()
	q.in.closed = true
	q.in.mu.Unlock()
	// No item is added from here on.
	q.slots.close()
	q.items.close()
}

// Len returns the number of values that a Get would find now.
func (q *Queue[T]) Len() int { return q.items.free() }

// Cap returns the number of values that the queue has room for.
func (q *Queue[T]) Cap() int { return len(q.ring) }
