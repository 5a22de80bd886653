package datagram

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"netstackd/internal/epoll"
	"netstackd/internal/flow"
	"netstackd/internal/ippkt"
	"netstackd/internal/netstack"
	"netstackd/internal/transparent/outlet"
)

// sessionSet is what UDP and Echo have in common: their sessions, and what these
// share. A packet of a new source opens a session. A session ends when it is
// idle, evicted (the least recently used first) or killed.
type sessionSet struct {
	outlet *outlet.Outlet
	loop   *epoll.Loop
	flows  *flow.Registry
	log    *slog.Logger
	start  time.Time // what session times count from
	inline bool      // dial does not wait
	// dial gets a session its carrier.
	dial func(ctx context.Context, s *session) (carrier, error)

	table sessionTable
	idle  idleTimer
	// remoteOpens limits new sessions of other hosts.
	remoteOpens *rate.Limiter
	ready       readyList            // sessions with packets to send at Flush
	limit       *netstack.ErrorLimit // of ICMP errors made here
	counters    counters
	batches     sync.Pool // *batch
	scratch     scratch

	mu     sync.Mutex
	closed bool           // no session may open any more, no goroutine start
	opens  []*session     // waiting for Serve to open them
	wake   chan struct{}  // wakes Serve, for opens and idle
	wg     sync.WaitGroup // goroutines of sessions
}

type counters struct {
	opened, expired, evicted, refused atomic.Uint64
	up, upBytes, down, downBytes      atomic.Uint64
	droppedQueue, droppedSend         atomic.Uint64
	droppedInvalid                    atomic.Uint64
	errors                            atomic.Uint64
	sendCalls, recvCalls              atomic.Uint64
}

// Stats counts what UDP or Echo did. Datagrams in trains count one by one.
type Stats struct {
	Sessions             int    // open now
	Opened               uint64 // ever
	Expired              uint64 // ended by being idle
	Evicted              uint64 // ended, least recently used first, to make room
	Refused              uint64 // sessions that could not be opened
	Up, UpBytes          uint64 // sent to destinations
	Down, DownBytes      uint64 // received from them
	DroppedQueue         uint64 // up: the session's queue was full
	DroppedSend          uint64 // up: the socket's buffer was full, or it refused
	DroppedWrite         uint64 // packets that the TUN refused
	DroppedInvalid       uint64 // up: malformed, or not for a unicast address
	Errors               uint64 // ICMP errors sent to applications
	SendCalls, RecvCalls uint64 // system calls that sent, and that received
}

func (u *sessionSet) init(l outlet.Link, loop *epoll.Loop, flows *flow.Registry, limit *netstack.ErrorLimit, log *slog.Logger) {
	u.outlet, u.loop, u.flows, u.log = outlet.New(l), loop, flows, log
	if u.limit = limit; u.limit == nil {
		u.limit = netstack.NewErrorLimit()
	}
	if u.log == nil {
		u.log = slog.New(slog.DiscardHandler)
	}
	u.remoteOpens = rate.NewLimiter(remoteOpensPerSecond, remoteOpensBurst)
	u.start = time.Now()
	u.wake = make(chan struct{}, 1)
	u.table.init()
	u.batches.New = func() any { return new(batch) }
	u.scratch.init()
}

// now is the time that session clocks show.
func (u *sessionSet) now() time.Duration { return time.Since(u.start) }

// Flush implements netstack.PacketHandler: it sends what HandlePacket collected.
func (u *sessionSet) Flush() {
	s := u.ready.take()
	if s == nil {
		return
	}
	now := u.now()
	for s != nil {
		next := s.nextReady
		s.nextReady = nil
		s.used.Store(int64(now))
		s.flush(true)
		s = next
	}
}

// localError sends an application an ICMP error that is made here. Those need a
// limit: the errors that the network reports are limited by their senders.
func (u *sessionSet) localError(hash uint32, e ippkt.ICMPError, q *ippkt.Quote) {
	if u.limit.Allow(netip.AddrPortFrom(q.Src, q.Port())) {
		u.counters.errors.Add(1)
		u.outlet.ICMP(hash, e, q)
	}
}

// Serve opens and expires sessions until ctx ends. Then it ends all that are
// left and waits for their goroutines.
func (u *sessionSet) Serve(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			u.shutdown()
			return nil
		case <-u.wake:
		case <-timer.C:
		}
		u.startOpens(ctx)
		if d, ok := u.expire(); ok {
			timer.Reset(d)
		}
	}
}

// drainTimeout is how long a session may be idle while its process ends.
const drainTimeout = time.Second

// Drain makes sessions end that are idle for a second from now on, so that a
// shutdown does not wait for those that are no longer used. Serve goes on.
func (u *sessionSet) Drain() {
	u.idle.hasten(drainTimeout)
	u.notify()
}

func (u *sessionSet) shutdown() {
	u.mu.Lock()
	u.closed = true
	opens := u.opens
	u.opens = nil
	u.mu.Unlock()
	for _, s := range u.table.all() {
		s.close()
	}
	for _, s := range opens {
		s.leave() // in place of its opener
	}
	u.wg.Wait()
}

// spawn runs f on a goroutine that Serve waits for, and reports whether it
// does: not after the end.
func (u *sessionSet) spawn(f func()) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return false
	}
	u.wg.Go(f)
	return true
}

// notify wakes Serve.
func (u *sessionSet) notify() {
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// Stats returns the counters.
func (u *sessionSet) Stats() Stats {
	c := &u.counters
	return Stats{
		Sessions: u.table.len(),
		Opened:   c.opened.Load(), Expired: c.expired.Load(), Evicted: c.evicted.Load(), Refused: c.refused.Load(),
		Up: c.up.Load(), UpBytes: c.upBytes.Load(), Down: c.down.Load(), DownBytes: c.downBytes.Load(),
		DroppedQueue: c.droppedQueue.Load(), DroppedSend: c.droppedSend.Load(), DroppedWrite: u.outlet.Refused(),
		DroppedInvalid: c.droppedInvalid.Load(),
		Errors:         c.errors.Load(),
		SendCalls:      c.sendCalls.Load(), RecvCalls: c.recvCalls.Load(),
	}
}
