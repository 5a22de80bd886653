package datagram

import (
	"container/heap"
	"sync"
	"time"
)

const (
	dnsPort    = 53
	dnsTimeout = 10 * time.Second
)

// idleTimer finds the session that becomes idle next, and the one that has been
// idle for longest.
//
// A packet only stores the time in its session. The heaps are ordered by the
// times that they saw last, which can only be too early. When a session comes to
// the top, its time is read again, and it sinks if it was used. So a session
// costs one heap operation per timeout, and a packet none.
type idleTimer struct {
	mu    sync.Mutex
	long  idleHeap
	short idleHeap      // sessions for DNS, and those whose application is gone
	alarm time.Duration // when Serve expires sessions next; 0 = never
}

func (t *idleTimer) init(long, short time.Duration) {
	t.long.timeout, t.short.timeout = long, short
}

// hasten lowers the timeouts to at most d.
func (t *idleTimer) hasten(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.long.timeout, t.short.timeout = min(d, t.long.timeout), min(d, t.short.timeout)
}

// grain is the precision of the alarm: sessions that end within it end
// together, in one wake-up.
func (t *idleTimer) grain() time.Duration {
	return min(time.Second, t.short.timeout/8)
}

// add enters a session. It reports whether Serve has to reset its alarm.
func (t *idleTimer) add(s *session) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := &t.long
	if s.short.Load() {
		h = &t.short
	}
	h.add(s)
	return t.earlier(s.key + h.timeout)
}

func (t *idleTimer) earlier(due time.Duration) bool {
	if t.alarm != 0 && t.alarm <= due+t.grain() {
		return false
	}
	t.alarm = due + t.grain() // Serve is woken once
	return true
}

// remove forgets a session. It may be called for one that has been removed.
func (t *idleTimer) remove(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.take(s)
}

func (t *idleTimer) take(s *session) bool {
	if s.heap == nil {
		return false
	}
	heap.Remove(s.heap, s.pos)
	return true
}

// lengthen gives s the long timeout.
func (t *idleTimer) lengthen(s *session) { t.move(s, &t.long) }

// shorten gives s the short timeout, and reports as add does.
func (t *idleTimer) shorten(s *session) bool { return t.move(s, &t.short) }

func (t *idleTimer) move(s *session, h *idleHeap) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.heap == h || !t.take(s) {
		return false
	}
	s.short.Store(h == &t.short)
	h.add(s)
	return t.earlier(s.key + h.timeout)
}

// expired removes and returns the sessions that are idle at now. The wait is
// how long until the next could be; ok is false when there is none.
func (t *idleTimer) expired(now time.Duration) (list []*session, wait time.Duration, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.alarm = 0
	for _, h := range []*idleHeap{&t.long, &t.short} {
		for {
			s := h.oldest()
			if s == nil {
				break
			}
			if due := s.key + h.timeout; due > now {
				if due += t.grain(); t.alarm == 0 || due < t.alarm {
					t.alarm = due
				}
				break
			}
			t.take(s)
			list = append(list, s)
		}
	}
	return list, t.alarm - now, t.alarm != 0
}

// evict removes and returns the least recently used session other than keep,
// which may be nil.
func (t *idleTimer) evict(keep *session) *session {
	t.mu.Lock()
	defer t.mu.Unlock()
	if keep != nil && keep.heap != nil {
		h := keep.heap
		t.take(keep)
		defer h.add(keep)
	}
	s, other := t.long.oldest(), t.short.oldest()
	if s == nil || (other != nil && other.key < s.key) {
		s = other
	}
	if s != nil {
		t.take(s)
	}
	return s
}

// idleHeap is a heap of the sessions with one timeout, by session.key.
type idleHeap struct {
	timeout time.Duration
	list    []*session
}

func (h *idleHeap) add(s *session) {
	s.key = time.Duration(s.used.Load())
	heap.Push(h, s)
}

// oldest returns the least recently used session, nil if there is none.
func (h *idleHeap) oldest() *session {
	for len(h.list) > 0 {
		s := h.list[0]
		used := time.Duration(s.used.Load())
		if used == s.key {
			return s
		}
		s.key = used
		heap.Fix(h, 0)
	}
	return nil
}

// Len, Less, Swap, Push and Pop implement heap.Interface.

func (h *idleHeap) Len() int           { return len(h.list) }
func (h *idleHeap) Less(i, j int) bool { return h.list[i].key < h.list[j].key }

func (h *idleHeap) Swap(i, j int) {
	h.list[i], h.list[j] = h.list[j], h.list[i]
	h.list[i].pos, h.list[j].pos = i, j
}

func (h *idleHeap) Push(x any) {
	s := x.(*session)
	s.heap, s.pos = h, len(h.list)
	h.list = append(h.list, s)
}

func (h *idleHeap) Pop() any {
	n := len(h.list) - 1
	s := h.list[n]
	h.list[n] = nil
	h.list = h.list[:n]
	s.heap = nil
	return s
}
