package queue

// The list of a semaphore's waiters; s.mu is held by the callers of all of these.

// enqueue appends a waiter for the calling goroutine.
func (s *semaphore) enqueue() *waiter {
	w := s.free
	if w == nil {
		w = &waiter{wake: make(chan struct{}, 1)}
	} else {
		s.free = w.next
	}
	w.granted, w.queued = false, true
	w.prev, w.next = s.last, nil
	if s.last == nil {
		s.first = w
	} else {
		s.last.next = w
	}
	s.last = w
	s.waits++
	return w
}

// remove takes w out of the list.
func (s *semaphore) remove(w *waiter) {
	if w.prev == nil {
		s.first = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		s.last = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.prev, w.next, w.queued = nil, nil, false
}

// recycle keeps w, which is in no list and whose wake channel is empty, for the next enqueue.
func (s *semaphore) recycle(w *waiter) {
	w.next = s.free
	s.free = w
}
