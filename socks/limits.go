package socks

import (
	"container/list"
	"net/netip"
	"sync"
	"time"
)

// A gate bounds how many of something are under way, for each client and in
// all. When it is full the oldest gives way, if it has been there for longer
// than patience: what has taken longest is the least likely to come to
// anything. So neither clients that stall nor destinations that are dead can
// keep others out, and a burst of honest work is never cut short.
type gate struct {
	total, perClient int
	patience         time.Duration

	mu      sync.Mutex
	all     list.List                 // of *pass, oldest first
	clients map[netip.Addr]*list.List // the same, of one client
	refused int64
	evicted int64
}

// pass is one place taken.
type pass struct {
	gate     *gate
	client   netip.Addr
	since    time.Time
	evict    func()
	inAll    *list.Element
	inClient *list.Element
}

func newGate(total, perClient int, patience time.Duration) *gate {
	return &gate{total: total, perClient: perClient, patience: patience, clients: make(map[netip.Addr]*list.List)}
}

// enter takes a place for the client, and reports whether there was one. Evict
// is called, from another client's goroutine, when the place has to be given
// up; it must not block.
func (g *gate) enter(client netip.Addr, evict func()) (*pass, bool) {
	now := time.Now()
	g.mu.Lock()
	var victim *pass
	var yield func()
	if q := g.clients[client]; q != nil && q.Len() >= g.perClient {
		victim = q.Front().Value.(*pass)
	} else if g.all.Len() >= g.total {
		victim = g.all.Front().Value.(*pass)
	}
	if victim != nil {
		if now.Sub(victim.since) < g.patience {
			g.refused++
			g.mu.Unlock()
			return nil, false
		}
		g.evicted++
		g.remove(victim)
		yield = victim.evict
	}
	q := g.clients[client] // only now: removing the victim may have dropped it
	if q == nil {
		q = list.New()
		g.clients[client] = q
	}
	p := &pass{gate: g, client: client, since: now, evict: evict}
	p.inAll, p.inClient = g.all.PushBack(p), q.PushBack(p)
	g.mu.Unlock()
	if yield != nil {
		yield()
	}
	return p, true
}

// leave gives the place back. It may be called more than once, and on nil.
func (p *pass) leave() {
	if p == nil {
		return
	}
	p.gate.mu.Lock()
	p.gate.remove(p)
	p.gate.mu.Unlock()
}

// onEvict replaces what happens when the place has to be given up.
func (p *pass) onEvict(evict func()) {
	p.gate.mu.Lock()
	p.evict = evict
	p.gate.mu.Unlock()
}

// remove is called with mu held.
func (g *gate) remove(p *pass) {
	if p.inAll == nil {
		return
	}
	g.all.Remove(p.inAll)
	q := g.clients[p.client]
	q.Remove(p.inClient)
	if q.Len() == 0 {
		delete(g.clients, p.client)
	}
	p.inAll, p.inClient = nil, nil
}

// shed evicts the oldest place whatever its age, and reports whether there was
// one: for when descriptors have run out.
func (g *gate) shed() bool {
	g.mu.Lock()
	e := g.all.Front()
	if e == nil {
		g.mu.Unlock()
		return false
	}
	victim := e.Value.(*pass)
	g.evicted++
	g.remove(victim)
	yield := victim.evict
	g.mu.Unlock()
	yield()
	return true
}

func (g *gate) stats() (now int, refused, evicted int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.all.Len(), g.refused, g.evicted
}
