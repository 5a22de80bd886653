// Package flow is the registry of everything netstackd carries: one entry for
// each TCP connection, UDP mapping and ping, with its ends, its byte counters
// and a way to end it. Limits, drain and statistics use it.
//
// A Flow is opened by the inbound that accepted the traffic and closed by its
// last owner. Counting is lock-free; opening and closing take one short lock of
// one of a few shards, so that different cores rarely contend for it.
//
// A connection is pending until it has both its ends: while its destination is
// dialed and its handshake waits for the client. Pending flows cost a client
// nothing, so the oldest of them give way to new ones when places run out.
package flow

import (
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"netstackd/queue/admission"
)

// Inbound says how a flow reached us.
type Inbound uint8

// The kinds of inbound flow.
const (
	Transparent Inbound = iota // routed into the TUN
	SOCKSHost                  // through a SOCKS listener on the host
	SOCKSStack                 // through the SOCKS listener inside the stack
	HTTPProxy                  // through an HTTP request on a SOCKS port
	Published                  // through a port published by exec
	Internal                   // started by netstackd itself, for example a DNS query
)

// String returns the kind in the words of the log.
func (i Inbound) String() string {
	switch i {
	case Transparent:
		return "transparent"
	case SOCKSHost:
		return "socks-host"
	case SOCKSStack:
		return "socks-stack"
	case HTTPProxy:
		return "http-proxy"
	case Published:
		return "published"
	case Internal:
		return "internal"
	}
	return "inbound-" + strconv.Itoa(int(i))
}

// Meta says where a flow comes from and where it goes.
type Meta struct {
	Inbound Inbound
	Network string         // "tcp", "udp" or "icmp"
	Source  netip.AddrPort // the application's end
	Dest    netip.AddrPort // the destination; only its port counts when Name is set
	Name    string         // the destination's name, when that is what was asked for
	User    string         // the authenticated user, if any
	DSCP    uint8          // the application's, as in the IP header, where it sits above the two bits of ECN
}

// Destination returns host:port of the destination, by name where one was given.
func (m *Meta) Destination() string {
	if m.Name != "" {
		return m.Name + ":" + strconv.Itoa(int(m.Dest.Port()))
	}
	return m.Dest.String()
}

// Flow is one carried flow. Its counters may be advanced by any goroutine.
type Flow struct {
	id      uint64
	meta    Meta
	started time.Time
	reg     *Registry
	counted bool // among those of its source
	killer  atomic.Pointer[func()]
	killed  atomic.Bool
	evicted atomic.Bool
	pending atomic.Pointer[admission.Place] // nil when the flow was never pending
	up      atomic.Int64
	down    atomic.Int64
	open    atomic.Uint32 // directions that carry on: openUp, openDown
	closed  atomic.Bool
}

const openUp, openDown = 1, 2

// ID returns the flow's number, unique within its registry and never 0.
func (f *Flow) ID() uint64 { return f.id }

// Meta returns the flow's ends. The caller must not change it.
func (f *Flow) Meta() *Meta { return &f.meta }

// AddUp counts n payload bytes from the application to the destination.
func (f *Flow) AddUp(n int64) { f.up.Add(n) }

// AddDown counts n payload bytes from the destination to the application.
func (f *Flow) AddDown(n int64) { f.down.Add(n) }

// Establish notes that the flow is no longer pending. It reports false if the
// flow has given way to another, and then must not be used.
func (f *Flow) Establish() bool {
	p := f.pending.Load()
	return p == nil || p.Leave()
}

// Begin notes that the flow has both its ends and carries bytes each way.
func (f *Flow) Begin() {
	f.pending.Load().Leave()
	f.open.Store(openUp | openDown)
}

// EndUp notes that the application's end of stream was passed on, and
// everything before it.
func (f *Flow) EndUp() { f.open.And(^uint32(openUp)) }

// EndDown notes that the destination's was.
func (f *Flow) EndDown() { f.open.And(^uint32(openDown)) }

// Kill ends the flow from outside: what is under way is cut by a reset. The
// flow's owner closes it in the end, so Kill may return before the flow has left
// the registry.
func (f *Flow) Kill() {
	f.killed.Store(true)
	if kill := f.killer.Load(); kill != nil && !f.closed.Load() {
		(*kill)()
	}
}

// OnKill replaces what Kill does, as when the flow passes from one owner to
// the next. If Kill was called before, it does so now.
func (f *Flow) OnKill(kill func()) {
	f.killer.Store(&kill)
	if f.killed.Load() {
		f.Kill()
	}
}

// Evicted reports whether the flow was killed while it was pending because
// another needed its place.
func (f *Flow) Evicted() bool { return f.evicted.Load() }

// evict makes room at once: the owner needs time to end what it has begun.
func (f *Flow) evict() {
	f.evicted.Store(true)
	f.Kill()
	f.Close()
}

// Close takes the flow out of its registry. It is idempotent.
func (f *Flow) Close() {
	if f.closed.CompareAndSwap(false, true) {
		f.pending.Load().Leave()
		f.reg.remove(f)
	}
}

// Info is a snapshot of one flow.
type Info struct {
	ID       uint64
	Meta     Meta
	Started  time.Time
	Up, Down int64 // payload bytes
	// UpOpen and DownOpen say which directions of a connection are between
	// Begin and their end of stream.
	UpOpen, DownOpen bool
}
