package daemon

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"netstackd/internal/flow"
	"netstackd/socks"
)

const (
	// faultEvery is how often, at most, an upstream's fault is logged. Each
	// connection of an application meets the same fault.
	faultEvery = time.Minute
	// silentAfter is how long an upstream may take for an answer before its
	// silence is a fault. A dial that ends earlier proves nothing.
	silentAfter = 3 * time.Second
)

// upstreams is a dialer by --via that tells the user when it is an upstream
// that makes flows fail: a mistyped password looks like a dead network
// otherwise.
type upstreams struct {
	dialer
	loop *loop // nil unless an upstream could be sent its own flows
	log  *slog.Logger

	answered atomic.Int64 // when an upstream last answered a request, in ns since start
	start    time.Time

	mu   sync.Mutex
	told time.Time
}

func newUpstreams(d dialer, loop *loop, log *slog.Logger) *upstreams {
	return &upstreams{dialer: d, loop: loop, log: log, start: time.Now()}
}

// DialContext implements dialer.
func (u *upstreams) DialContext(ctx context.Context, m *flow.Meta, network, address string) (net.Conn, error) {
	if m.Inbound == flow.Transparent && u.loop.closes("tcp", m.Source, m.Dest) {
		return nil, errLoop("tcp", m.Dest)
	}
	began := time.Since(u.start)
	c, err := u.dialer.DialContext(ctx, m, network, address)
	u.judge(began, err)
	return c, err
}

// ListenPacket implements dialer.
func (u *upstreams) ListenPacket(ctx context.Context, m *flow.Meta, network, address string) (net.PacketConn, error) {
	if m.Inbound == flow.Transparent && u.loop.closes("udp", m.Source, m.Dest) {
		return nil, errLoop("udp", m.Dest)
	}
	began := time.Since(u.start)
	c, err := u.dialer.ListenPacket(ctx, m, network, address)
	u.judge(began, err)
	return c, err
}

// Listen implements dialer.
func (u *upstreams) Listen(ctx context.Context, m *flow.Meta, network, address string) (net.Listener, error) {
	began := time.Since(u.start)
	l, err := u.dialer.Listen(ctx, m, network, address)
	u.judge(began, err)
	return l, err
}

// judge logs what is wrong with an upstream if that is why a flow failed. The
// dial began at a time since start.
func (u *upstreams) judge(began time.Duration, err error) {
	if socks.Answered(err) {
		u.answered.Store(int64(time.Since(u.start)))
	}
	if err == nil {
		return
	}
	server, cause := socks.Fault(err)
	if cause == nil && u.silent(began) {
		if server = socks.Silent(err); server != "" {
			cause = socks.ErrSilent
		}
	}
	if cause == nil || !u.mayTell() {
		return
	}
	u.log.Warn("connections fail by their upstream", "via", server, "err", cause)
}

// silent reports whether no request at all was answered since began. An
// upstream may be silent about one destination because that is silent.
func (u *upstreams) silent(began time.Duration) bool {
	return time.Since(u.start)-began >= silentAfter && time.Duration(u.answered.Load()) <= began
}

func (u *upstreams) mayTell() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.told.IsZero() && time.Since(u.told) < faultEvery {
		return false
	}
	u.told = time.Now()
	return true
}
