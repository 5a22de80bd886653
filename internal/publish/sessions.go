package publish

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"netstackd/internal/flow"
)

// sessions are those of all UDP ports.
type sessions struct {
	cfg   *Config
	start time.Time     // what now counts from
	opens chan *session // to be opened, oldest first

	mu      sync.Mutex
	table   map[key]*session
	reading sync.WaitGroup // goroutines of sessions

	held atomic.Int64 // bytes that wait in sessions

	opened, expired, evicted, refused, dropped atomic.Uint64
}

// maxHeld bounds the bytes that wait in all sessions.
const maxHeld = 4 << 20

// refuseFor is how long a port whose server is not there refuses clients without
// looking for it again.
const refuseFor = 100 * time.Millisecond

// dialTimeout bounds the opening of a session, which normally takes less than a
// millisecond. It is exceeded when the command and its parent are stopped.
const dialTimeout = 5 * time.Second

func newSessions(cfg *Config) *sessions {
	return &sessions{
		cfg:   cfg,
		start: time.Now(),
		opens: make(chan *session, cfg.MaxSessions),
		table: make(map[key]*session),
	}
}

// now is the time that session clocks show.
func (t *sessions) now() time.Duration { return time.Since(t.start) }

// hold reserves n bytes for a datagram that waits, and reports whether there is
// room.
func (t *sessions) hold(n int) bool {
	if t.held.Add(int64(n)) <= maxHeld {
		return true
	}
	t.release(n)
	return false
}

func (t *sessions) release(n int) { t.held.Add(int64(-n)) }

func (t *sessions) get(k key) *session {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.table[k]
}

func (t *sessions) remove(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.table[s.key] == s {
		delete(t.table, s.key)
	}
}

// add makes a session, at the cost of the least recently used one if there is no
// room. It is nil when it can't be had. Only the goroutine that reads the key's
// port calls it.
func (t *sessions) add(k key) *session {
	if int64(t.now()) < k.port.quiet.Load() {
		return nil
	}
	s := &session{key: k, set: t, source: k.local.control()}
	s.used.Store(int64(t.now()))
	if err := t.register(s); err != nil {
		t.fail(s, err)
		return nil
	}
	t.mu.Lock()
	full := len(t.table) >= t.cfg.MaxSessions
	t.mu.Unlock()
	if full {
		t.evict(netip.Addr{})
	}
	t.mu.Lock()
	t.table[k] = s
	t.mu.Unlock()
	if s.isEnded() { // killed in between
		t.remove(s)
		return nil
	}
	select {
	case t.opens <- s:
		return s
	default: // sessions that have ended are still in line
		s.end()
		return nil
	}
}

// register enters s in the flow registry, which makes room by EvictSession. A source
// that has as many flows as it may gives up its own.
func (t *sessions) register(s *session) error {
	source := netip.AddrPortFrom(s.client.Addr().Unmap(), s.client.Port())
	m := flow.Meta{Inbound: flow.Published, Network: "udp", Source: source, Dest: netip.AddrPortFrom(t.cfg.Inside[0], s.port.port)}
	if err := t.cfg.Permit(&m); err != nil {
		return err
	}
	f, err := t.cfg.Flows.Open(m, s.end)
	if errors.Is(err, flow.ErrPerSource) && t.evict(source.Addr()) {
		f, err = t.cfg.Flows.Open(m, s.end)
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.flow = f
	ended := s.ended
	s.mu.Unlock()
	if ended { // killed in between
		f.Close()
		return net.ErrClosed
	}
	return nil
}

// evict ends the least recently used session, of one client's address if that is
// valid, and reports whether there was one.
func (t *sessions) evict(source netip.Addr) bool {
	var victim *session
	t.mu.Lock()
	for _, s := range t.table {
		if source.IsValid() && s.client.Addr().Unmap() != source {
			continue
		}
		if victim == nil || s.used.Load() < victim.used.Load() {
			victim = s
		}
	}
	t.mu.Unlock()
	if victim == nil {
		return false
	}
	victim.evict()
	return true
}

// open gets the sessions their sockets until ctx ends.
func (t *sessions) open(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-t.opens:
			if s.isEnded() {
				continue
			}
			conn, err := t.dial(ctx, s.port)
			if err != nil {
				t.fail(s, err)
				s.end()
				continue
			}
			s.opened(conn)
		}
	}
}

// dial connects to the port's server, which it has the sandbox look for unless
// its address is known.
func (t *sessions) dial(ctx context.Context, p *udpPort) (*net.UDPConn, error) {
	if int64(t.now()) < p.quiet.Load() {
		return nil, syscall.ECONNREFUSED
	}
	address := ":" + strconv.Itoa(int(p.port))
	if known := p.inner.Load(); known != nil {
		address = *known
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, err := t.cfg.Dial(ctx, "udp", address)
	if err != nil {
		if errors.Is(err, syscall.ECONNREFUSED) {
			p.quiet.Store(int64(t.now() + refuseFor))
		}
		return nil, err
	}
	conn, ok := c.(*net.UDPConn)
	if !ok {
		c.Close()
		return nil, errors.ErrUnsupported
	}
	address = conn.RemoteAddr().String()
	p.inner.Store(&address)
	return conn, nil
}

// fail notes that a session could not be had.
func (t *sessions) fail(s *session, err error) {
	t.refused.Add(1)
	t.cfg.Logger.Debug("publish", "proto", "udp", "src", s.client, "port", s.port.port, "err", err)
}

// shutdown ends all sessions and waits for their goroutines. What receives and
// opens has ended.
func (t *sessions) shutdown() {
	t.mu.Lock()
	list := make([]*session, 0, len(t.table))
	for _, s := range t.table {
		list = append(list, s)
	}
	t.mu.Unlock()
	for _, s := range list {
		s.end()
	}
	t.reading.Wait()
}

func (t *sessions) stats() Stats {
	t.mu.Lock()
	n := len(t.table)
	t.mu.Unlock()
	return Stats{
		Sessions: n,
		Opened:   t.opened.Load(),
		Expired:  t.expired.Load(),
		Evicted:  t.evicted.Load(),
		Refused:  t.refused.Load(),
		Dropped:  t.dropped.Load(),
	}
}
