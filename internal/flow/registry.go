package flow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"netstackd/queue/admission"
)

// ErrLimit is the error of a flow that the limits do not allow.
var ErrLimit = errors.New("flow limit reached")

// ErrPerSource is the error of a flow whose source has as many as it may. It
// wraps ErrLimit. That flows of other sources end does not help it.
var ErrPerSource = fmt.Errorf("%w: of one address", ErrLimit)

// ErrDraining is the error of a flow opened after Drain has begun.
var ErrDraining = errors.New("shutting down")

// Config sets a registry's limits. The zero value has none.
type Config struct {
	MaxFlows int // flows at once; 0 = no limit
	// MaxPerSource limits the flows at once from one source address, other than
	// this host's transparent ones; 0 = no limit.
	MaxPerSource int
	// Remote reports whether a source address is another host's. One such source
	// has at most half of the flows that may be open, transparent ones too. It
	// must not block; nil = none is.
	Remote func(netip.Addr) bool
	// MaxPendingPerSource limits the pending flows from one source address. At
	// the limit the oldest of them gives way. 0 = half of all that may be pending,
	// but no fewer than 64.
	MaxPendingPerSource int
	// EvictSession is called when MaxFlows are open and one more is wanted. It ends a
	// flow other than a pending one that can be spared, and reports whether there
	// was one. It runs on the goroutine that opens, holding no lock, and must not
	// block; nil = none can.
	EvictSession func() bool
	// Changed is called after the number of flows changed, from the goroutine
	// that opened or closed one, holding no lock. It must not block.
	Changed func(flows int)
}

// Stats counts what a registry has seen.
type Stats struct {
	Open    int   // flows now
	Pending int   // of these, those that are pending
	Opened  int64 // flows ever
	Refused int64 // flows refused by a limit
	Evicted int64 // pending flows that gave way to others
	Up      int64 // payload bytes of closed flows, application to destination
	Down    int64 // payload bytes of closed flows, destination to application
}

const shards = 16 // a power of two

type shard struct {
	mu    sync.Mutex
	flows map[uint64]*Flow
	_     [40]byte // a cache line each
}

// Registry holds the open flows. Use NewRegistry.
type Registry struct {
	cfg     Config
	nextID  atomic.Uint64
	open    atomic.Int64
	refused atomic.Int64
	up      atomic.Int64
	down    atomic.Int64
	drained chan struct{} // signaled when open falls to 0 while draining
	drain   atomic.Bool
	limit   atomic.Int64 // MaxFlows, lowered by SetLimit
	sources sourceCount
	pending *admission.Limiter
	shards  [shards]shard
}

// NewRegistry returns an empty registry.
func NewRegistry(cfg Config) *Registry {
	r := &Registry{cfg: cfg, drained: make(chan struct{}, 1)}
	r.limit.Store(int64(cfg.MaxFlows))
	// A quarter of the places is out of reach of pending flows, so that a flood
	// of them does not take those of other flows.
	total := min(cfg.MaxFlows-cfg.MaxFlows/4, maxPending)
	perSource := cmp.Or(cfg.MaxPendingPerSource, max((total+1)/2, min(total, 64)))
	r.pending = admission.New(admission.Config{Total: total, PerSource: perSource})
	for i := range r.shards {
		r.shards[i].flows = make(map[uint64]*Flow)
	}
	return r
}

// Open registers a flow. Kill must end the flow without waiting for it; it is
// called at most a few times, from any goroutine, and may be nil. The error
// wraps ErrLimit or ErrDraining.
func (r *Registry) Open(m Meta, kill func()) (*Flow, error) {
	n, err := r.enter()
	for range maxEvictions {
		if !errors.Is(err, ErrLimit) || !r.Evict() && !r.pending.EvictOldest(0) {
			break
		}
		n, err = r.enter()
	}
	if err != nil {
		if errors.Is(err, ErrLimit) {
			r.refused.Add(1)
		}
		return nil, err
	}
	most := r.mostOf(&m)
	if most > 0 && !r.sources.take(m.Source.Addr(), most) {
		r.refused.Add(1)
		r.left()
		return nil, fmt.Errorf("flow: %w: %d open", ErrPerSource, most)
	}
	f := &Flow{id: r.nextID.Add(1), meta: m, started: time.Now(), reg: r, counted: most > 0}
	if kill != nil {
		f.killer.Store(&kill)
	}
	s := &r.shards[f.id%shards]
	s.mu.Lock()
	s.flows[f.id] = f
	s.mu.Unlock()
	if r.drain.Load() { // Drain began in between and may have missed this one
		f.Kill()
	}
	if r.cfg.Changed != nil {
		r.cfg.Changed(int(n))
	}
	return f, nil
}

// maxPending is how many flows may be pending, whatever MaxFlows is: each costs
// some 30 KB.
const maxPending = 8192

// OpenPending registers a flow that is pending until Establish or Begin. When
// it has to give way before that, it is killed and has left the registry; its
// owner still closes it.
func (r *Registry) OpenPending(m Meta, kill func()) (*Flow, error) {
	f, err := r.Open(m, kill)
	if err != nil {
		return nil, err
	}
	p, _ := r.pending.Enter(m.Source.Addr(), f.evict) // without patience there is always a place
	f.pending.Store(p)
	if f.closed.Load() { // killed in between
		p.Leave()
	}
	return f, nil
}

// patience is how long a flow may be pending before it is the first to end when
// places are short: most dials take less.
const patience = time.Second

// Evict ends a flow that can be spared and reports whether there was one: a
// pending one that has taken long, else what EvictSession finds.
func (r *Registry) Evict() bool {
	return r.pending.EvictOldest(patience) || r.cfg.EvictSession != nil && r.cfg.EvictSession()
}

// maxEvictions bounds how many flows one new one may cost. More than one is
// needed when the first place that comes free goes to another caller.
const maxEvictions = 4

// enter takes a place among the flows, if there is one, and returns how many
// are taken.
func (r *Registry) enter() (n int64, err error) {
	n = r.open.Add(1)
	if r.drain.Load() {
		r.left()
		return 0, fmt.Errorf("flow: %w", ErrDraining)
	}
	if limit := r.limit.Load(); limit > 0 && n > limit {
		r.left()
		return 0, fmt.Errorf("flow: %w: %d open", ErrLimit, limit)
	}
	return n, nil
}

// Remote reports whether a source address is known to be another host's.
func (r *Registry) Remote(src netip.Addr) bool { return r.cfg.Remote != nil && r.cfg.Remote(src) }

// mostOf returns how many flows the flow's source may have, 0 for no limit.
func (r *Registry) mostOf(m *Meta) int {
	most := r.cfg.MaxPerSource
	if !r.Remote(m.Source.Addr()) {
		if m.Inbound == Transparent {
			return 0 // of this host, which may have all of them
		}
		return most
	}
	limit := int(r.limit.Load())
	switch half := (limit + 1) / 2; {
	case limit == 0:
		return most
	case most == 0:
		return half
	default:
		return min(most, half)
	}
}

// SetLimit changes how many flows may be open at once; 0 = no limit. Flows
// that are open already stay.
func (r *Registry) SetLimit(n int) { r.limit.Store(int64(n)) }

// Refuse counts a flow that was turned away before it could be opened.
func (r *Registry) Refuse() { r.refused.Add(1) }

// Len returns how many flows are open.
func (r *Registry) Len() int { return int(r.open.Load()) }

func (r *Registry) remove(f *Flow) {
	s := &r.shards[f.id%shards]
	s.mu.Lock()
	delete(s.flows, f.id)
	s.mu.Unlock()
	if f.counted {
		r.sources.give(f.meta.Source.Addr())
	}
	r.up.Add(f.up.Load())
	r.down.Add(f.down.Load())
	n := r.left()
	if r.cfg.Changed != nil {
		r.cfg.Changed(int(n))
	}
}

func (r *Registry) left() int64 {
	n := r.open.Add(-1)
	if n == 0 && r.drain.Load() {
		select {
		case r.drained <- struct{}{}:
		default:
		}
	}
	return n
}

// Kill ends the flow with this number, and reports whether it was open.
func (r *Registry) Kill(id uint64) bool {
	s := &r.shards[id%shards]
	s.mu.Lock()
	f := s.flows[id]
	s.mu.Unlock()
	if f == nil {
		return false
	}
	f.Kill()
	return true
}

// Flows returns a snapshot of the open flows, in no order.
func (r *Registry) Flows() []Info {
	var out []Info
	r.each(func(f *Flow) {
		open := f.open.Load()
		out = append(out, Info{
			ID: f.id, Meta: f.meta, Started: f.started, Up: f.up.Load(), Down: f.down.Load(),
			UpOpen: open&openUp != 0, DownOpen: open&openDown != 0,
		})
	})
	return out
}

func (r *Registry) each(do func(*Flow)) {
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		flows := make([]*Flow, 0, len(s.flows))
		for _, f := range s.flows {
			flows = append(flows, f)
		}
		s.mu.Unlock()
		for _, f := range flows {
			do(f)
		}
	}
}

// Drain refuses new flows and waits until none is left. When ctx ends first it
// kills those that remain, waits for their owners to close them, and returns
// the context's error.
func (r *Registry) Drain(ctx context.Context) error {
	r.drain.Store(true)
	var err error
	done := ctx.Done()
	for r.open.Load() > 0 {
		select {
		case <-r.drained:
		case <-done:
			err, done = ctx.Err(), nil
			r.each((*Flow).Kill)
		}
	}
	return err
}

// Stats returns the registry's counters.
func (r *Registry) Stats() Stats {
	pending := r.pending.Stats()
	return Stats{
		Open:    int(r.open.Load()),
		Pending: pending.Held,
		Evicted: pending.Evicted,
		Opened:  int64(r.nextID.Load()),
		Refused: r.refused.Load(),
		Up:      r.up.Load(),
		Down:    r.down.Load(),
	}
}
