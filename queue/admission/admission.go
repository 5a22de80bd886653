// Package admission bounds how many of something are under way: handshakes,
// dials, idle connections.
//
// # Theory of operation
//
// A Limiter has a fixed number of places, and a smaller number for each source
// address. Each operation under way holds a place. When no place is free, the
// oldest holder is evicted: it is the least likely to succeed. A source that holds
// all of its own places loses its own oldest one, so one source cannot displace
// the others. Stalled clients, dead destinations and SYNs with spoofed sources do
// not keep an honest client out, as long as it finishes before it is the oldest.
package admission

import (
	"container/list"
	"net/netip"
	"sync"
	"time"
)

// Config sets a Limiter's limits.
type Config struct {
	Total     int // places in all; 0 = no limit
	PerSource int // places of one source address; 0 = no limit
	// Patience is how long a holder is safe from eviction by Enter. While all
	// are younger, it is the newcomer that is refused. With 0 no newcomer is.
	Patience time.Duration
}

// Limiter is a set of places. Use New.
type Limiter struct {
	cfg Config

	mu      sync.Mutex
	all     list.List                 // of *Place, oldest first
	sources map[netip.Addr]*list.List // the same, of one source
	refused int64
	evicted int64
}

// Place is one place that is held. Its methods may be called on nil.
type Place struct {
	limiter  *Limiter
	source   netip.Addr
	since    time.Time
	evict    func()
	inAll    *list.Element // nil when the place is no longer held
	inSource *list.Element
}

// Stats counts what a Limiter has done.
type Stats struct {
	Held    int   // places held now
	Refused int64 // newcomers
	Evicted int64 // holders
}

// New returns a Limiter all of whose places are free.
func New(cfg Config) *Limiter {
	return &Limiter{cfg: cfg, sources: make(map[netip.Addr]*list.List)}
}

// Enter takes a place for the source and reports whether there was one. Evict
// is called when the holder has to give way, after it has lost the place; nil =
// nothing. It runs on the goroutine of the newcomer, with no lock held, and must not block.
func (l *Limiter) Enter(source netip.Addr, evict func()) (*Place, bool) {
	source = source.Unmap()
	l.mu.Lock()
	now := time.Now() // with the lock, so that the lists are in order of age
	victim := l.victimLocked(source)
	if victim != nil && now.Sub(victim.since) < l.cfg.Patience {
		l.refused++
		l.mu.Unlock()
		return nil, false
	}
	yield := l.evictLocked(victim)
	own := l.sources[source] // only now: the eviction may have dropped it
	if own == nil {
		own = list.New()
		l.sources[source] = own
	}
	p := &Place{limiter: l, source: source, since: now, evict: evict}
	p.inAll, p.inSource = l.all.PushBack(p), own.PushBack(p)
	l.mu.Unlock()
	if yield != nil {
		yield()
	}
	return p, true
}

// victimLocked returns the holder that stands in the way of one more from
// source, or nil.
func (l *Limiter) victimLocked(source netip.Addr) *Place {
	if own := l.sources[source]; own != nil && l.cfg.PerSource > 0 && own.Len() >= l.cfg.PerSource {
		return own.Front().Value.(*Place)
	}
	if l.cfg.Total > 0 && l.all.Len() >= l.cfg.Total {
		return l.all.Front().Value.(*Place)
	}
	return nil
}

// EvictOldest evicts the oldest holder if it has held its place for at least
// age, and reports whether it did.
func (l *Limiter) EvictOldest(age time.Duration) bool {
	l.mu.Lock()
	var victim *Place
	if e := l.all.Front(); e != nil && time.Since(e.Value.(*Place).since) >= age {
		victim = e.Value.(*Place)
	}
	yield := l.evictLocked(victim)
	l.mu.Unlock()
	if yield != nil {
		yield()
	}
	return victim != nil
}

// evictLocked takes the victim's place and returns what is to be called without
// the lock. Both may be nil.
func (l *Limiter) evictLocked(victim *Place) func() {
	if victim == nil {
		return nil
	}
	l.evicted++
	l.removeLocked(victim)
	return victim.evict
}

func (l *Limiter) removeLocked(p *Place) {
	if p.inAll == nil {
		return
	}
	l.all.Remove(p.inAll)
	own := l.sources[p.source]
	own.Remove(p.inSource)
	if own.Len() == 0 {
		delete(l.sources, p.source)
	}
	p.inAll, p.inSource = nil, nil
}

// Stats returns the Limiter's counters.
func (l *Limiter) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Stats{Held: l.all.Len(), Refused: l.refused, Evicted: l.evicted}
}

// Leave gives the place back, and reports whether it was still held: not after
// an eviction, nor a second time.
func (p *Place) Leave() bool {
	if p == nil {
		return false
	}
	p.limiter.mu.Lock()
	defer p.limiter.mu.Unlock()
	held := p.inAll != nil
	p.limiter.removeLocked(p)
	return held
}

// OnEvict replaces what is called when the holder has to give way; nil = nothing.
// It reports whether the place is still held.
func (p *Place) OnEvict(evict func()) bool {
	if p == nil {
		return false
	}
	p.limiter.mu.Lock()
	defer p.limiter.mu.Unlock()
	p.evict = evict
	return p.inAll != nil
}
