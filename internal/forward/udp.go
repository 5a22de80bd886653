package forward

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"netstackd/internal/epoll"
	"netstackd/internal/flow"
	"netstackd/internal/netstack"
)

// PacketDialer opens the outbound sockets of UDP sessions. Where it returns a
// *net.UDPConn, UDP takes the descriptor over and moves packets in batches;
// any other net.PacketConn is read and written one datagram at a time.
type PacketDialer interface {
	ListenPacket(ctx context.Context, m *flow.Meta, network, address string) (net.PacketConn, error)
}

// UDPConfig tunes UDP. Its zero value works.
type UDPConfig struct {
	// Timeout ends a session that has been idle for so long; 0 = 5 minutes
	// (RFC 4787 §4.3). Those that only ever talked to port 53 end after 10
	// seconds, or Timeout if that is less.
	Timeout time.Duration
	// Inline says that ListenPacket does not wait for the network, so that it
	// may be called while packets are delivered. Else each call has a goroutine,
	// and the session's first datagrams wait for it.
	Inline bool
	// Router is who tells an application that a datagram's TTL ran out here: the
	// stack's addresses. A family that has none is not told.
	Router []netip.Addr
	// Logger gets a line per session at Debug; nil = none.
	Logger *slog.Logger
}

// UDPStats counts what UDP did. Datagrams in trains count one by one.
type UDPStats struct {
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
	DroppedInvalid       uint64 // up: destinations that no datagram can have
	Errors               uint64 // ICMP errors told to applications
	SendCalls, RecvCalls uint64 // system calls that sent, and that received
}

type udpCounters struct {
	opened, expired, evicted, refused atomic.Uint64
	up, upBytes, down, downBytes      atomic.Uint64
	droppedQueue, droppedSend         atomic.Uint64
	droppedInvalid, errors            atomic.Uint64
	sendCalls, recvCalls              atomic.Uint64
}

// UDP carries on the datagrams of applications; see the package comment. Use NewUDP.
type UDP struct {
	out    *outlet
	dialer PacketDialer
	loop   *epoll.Loop
	flows  *flow.Registry
	cfg    UDPConfig
	log    *slog.Logger
	start  time.Time // what session times count from

	table    sessionTable
	idle     idleTimer
	ready    readyList // sessions with datagrams to send at Flush
	limit    rateLimit // of ICMP errors made here
	counters udpCounters

	batches      sync.Pool // *batch
	senders      sync.Pool // *sender
	receivers    sync.Pool // *receiver
	errorReaders sync.Pool // *errorReader

	mu     sync.Mutex
	closed bool           // no session may open any more, no goroutine start
	opens  []*session     // waiting for Serve to open them
	wake   chan struct{}  // makes Serve look at opens and idle
	wg     sync.WaitGroup // goroutines of sessions
}

// NewUDP returns a UDP that writes answers to l, opens sockets with d, waits
// for them in loop and enters its sessions in flows. Serve must run.
func NewUDP(l Link, d PacketDialer, loop *epoll.Loop, flows *flow.Registry, cfg UDPConfig) *UDP {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 5 * time.Minute
	}
	u := &UDP{
		out: newOutlet(l), dialer: d, loop: loop, flows: flows, cfg: cfg,
		log: cfg.Logger, start: time.Now(), wake: make(chan struct{}, 1),
	}
	if u.log == nil {
		u.log = slog.New(slog.DiscardHandler)
	}
	u.table.init()
	u.idle.init(cfg.Timeout, min(cfg.Timeout, dnsTimeout))
	u.batches.New = func() any { return new(batch) }
	u.senders.New = func() any { return newSender() }
	u.receivers.New = func() any { return newReceiver() }
	u.errorReaders.New = func() any { return new(errorReader) }
	return u
}

// now is the time that session clocks show.
func (u *UDP) now() time.Duration { return time.Since(u.start) }

// HandlePacket implements netstack.PacketHandler for UDP.
func (u *UDP) HandlePacket(p *netstack.Packet) bool {
	src := netip.AddrPortFrom(p.Src, be16(p.Transport))
	dst := netip.AddrPortFrom(p.Dst, be16(p.Transport[2:]))
	if !unicast(p.Src) || !unicast(p.Dst) || src.Port() == 0 || dst.Port() == 0 {
		u.counters.droppedInvalid.Add(1)
		return true
	}
	if p.TTL <= 1 {
		u.expiredTTL(p, src, dst)
		return true
	}
	s := u.table.get(src)
	if s == nil {
		if s = u.openSession(src, dst, p.Hash); s == nil {
			return true
		}
	}
	if s.short.Load() && dst.Port() != dnsPort {
		u.idle.lengthen(s)
	}
	s.put(p, dst)
	return true
}

// Flush implements netstack.PacketHandler: it sends what HandlePacket collected.
func (u *UDP) Flush() {
	s := u.ready.take()
	if s == nil {
		return
	}
	now := u.now()
	for s != nil {
		next := s.nextReady
		s.nextReady = nil
		s.used.Store(int64(now))
		s.flush()
		s = next
	}
}

// expiredTTL answers like a router whose next hop would be the network.
func (u *UDP) expiredTTL(p *netstack.Packet, src, dst netip.AddrPort) {
	for _, a := range u.cfg.Router {
		if a.Is4() == p.Src.Is4() {
			q := udpQuote(src, dst, p.Buf.Data().Size(), p.AppendPayload(nil)...)
			q.ttl, q.tos, q.df = p.TTL, p.TOS, p.DF
			u.localError(p.Hash, errorFor(a, ttlExceeded, 0), &q)
			return
		}
	}
}

// localError tells an application of an error that was found here. Those that
// the network reports come as fast as it sends them; these need a limit.
func (u *UDP) localError(hash uint32, e icmpError, q *quote) {
	if u.limit.allow(u.now()) {
		u.counters.errors.Add(1)
		u.out.icmp(hash, e, q)
	}
}

// Serve opens and expires sessions until ctx ends. Then it ends all that are
// left and waits for their goroutines.
func (u *UDP) Serve(ctx context.Context) error {
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

func (u *UDP) shutdown() {
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
func (u *UDP) spawn(f func()) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return false
	}
	u.wg.Go(f)
	return true
}

// notify makes Serve look around.
func (u *UDP) notify() {
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// Stats returns the counters.
func (u *UDP) Stats() UDPStats {
	c := &u.counters
	return UDPStats{
		Sessions: u.table.len(),
		Opened:   c.opened.Load(), Expired: c.expired.Load(), Evicted: c.evicted.Load(), Refused: c.refused.Load(),
		Up: c.up.Load(), UpBytes: c.upBytes.Load(), Down: c.down.Load(), DownBytes: c.downBytes.Load(),
		DroppedQueue: c.droppedQueue.Load(), DroppedSend: c.droppedSend.Load(), DroppedWrite: u.out.errors.Load(),
		DroppedInvalid: c.droppedInvalid.Load(), Errors: c.errors.Load(),
		SendCalls: c.sendCalls.Load(), RecvCalls: c.recvCalls.Load(),
	}
}
