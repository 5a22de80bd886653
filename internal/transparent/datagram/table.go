package datagram

import (
	"net/netip"
	"sync"
)

const tableShards = 16 // a power of two

// sessionTable finds sessions by the application's address. Its shards keep
// the goroutines of several queues apart.
type sessionTable struct {
	shards [tableShards]struct {
		mu       sync.Mutex
		sessions map[netip.AddrPort]*session
		_        [48]byte // a cache line each
	}
}

func (t *sessionTable) init() {
	for i := range t.shards {
		t.shards[i].sessions = make(map[netip.AddrPort]*session)
	}
}

// get returns the session of src, or nil.
func (t *sessionTable) get(src netip.AddrPort) *session {
	sh := &t.shards[src.Port()%tableShards]
	sh.mu.Lock()
	s := sh.sessions[src]
	sh.mu.Unlock()
	return s
}

// add enters s unless its address has a session, which it then returns.
func (t *sessionTable) add(s *session) (other *session) {
	sh := &t.shards[s.src.Port()%tableShards]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if other = sh.sessions[s.src]; other == nil {
		sh.sessions[s.src] = s
	}
	return other
}

// remove forgets s.
func (t *sessionTable) remove(s *session) {
	sh := &t.shards[s.src.Port()%tableShards]
	sh.mu.Lock()
	if sh.sessions[s.src] == s {
		delete(sh.sessions, s.src)
	}
	sh.mu.Unlock()
}

// all returns every session, in no order.
func (t *sessionTable) all() []*session {
	var out []*session
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		for _, s := range sh.sessions {
			out = append(out, s)
		}
		sh.mu.Unlock()
	}
	return out
}

func (t *sessionTable) len() int {
	n := 0
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		n += len(sh.sessions)
		sh.mu.Unlock()
	}
	return n
}

// readyList holds the sessions that have something to send at the next Flush,
// in the order in which they got it. A session is in it at most once.
type readyList struct {
	mu         sync.Mutex
	head, tail *session
}

func (l *readyList) put(s *session) {
	l.mu.Lock()
	if l.tail == nil {
		l.head = s
	} else {
		l.tail.nextReady = s
	}
	l.tail = s
	l.mu.Unlock()
}

// take empties the list.
func (l *readyList) take() *session {
	l.mu.Lock()
	s := l.head
	l.head, l.tail = nil, nil
	l.mu.Unlock()
	return s
}
