package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"netstackd/internal/flow"
	"netstackd/socks"
	"netstackd/socks/wire"
)

const (
	// faultEvery is how often, at most, an upstream's fault is logged. Each
	// connection of an application meets the same fault.
	faultEvery = time.Minute
	// silentAfter is the age at which an unanswered request is blamed on the
	// upstream, unless the upstream has answered another one in the meantime. A
	// single unanswered request may be due to its destination.
	silentAfter = 3 * time.Second
)

// upstreams is the dialer of --via. It warns when an upstream makes flows fail:
// without the warning, a mistyped password looks like a dead network.
type upstreams struct {
	dialer
	loop *loop // nil unless an upstream could be sent its own flows
	log  *slog.Logger

	answered atomic.Int64 // when an upstream last answered a request, in ns since start
	start    time.Time

	mu   sync.Mutex
	told map[[2]string]time.Time // when a server's fault was logged last, by its mend
}

func newUpstreams(d dialer, loop *loop, log *slog.Logger) *upstreams {
	return &upstreams{dialer: d, loop: loop, log: log, start: time.Now(), told: make(map[[2]string]time.Time)}
}

// DialContext implements dialer.
func (u *upstreams) DialContext(ctx context.Context, m *flow.Meta, network, address string) (net.Conn, error) {
	if m.Inbound == flow.Transparent && u.loop.closes("tcp", m.Source, m.Dest) {
		return nil, errLoop("tcp", m.Dest)
	}
	r, watched := u.request(ctx)
	c, err := u.dialer.DialContext(watched, m, network, address)
	r.end(ctx, err)
	return c, err
}

// ListenPacket implements dialer.
func (u *upstreams) ListenPacket(ctx context.Context, m *flow.Meta, network, address string) (net.PacketConn, error) {
	if m.Inbound == flow.Transparent && u.loop.closes("udp", m.Source, m.Dest) {
		return nil, errLoop("udp", m.Dest)
	}
	r, watched := u.request(ctx)
	c, err := u.dialer.ListenPacket(watched, m, network, address)
	r.end(ctx, err)
	return c, err
}

// Listen implements dialer.
func (u *upstreams) Listen(ctx context.Context, m *flow.Meta, network, address string) (net.Listener, error) {
	r, watched := u.request(ctx)
	l, err := u.dialer.Listen(watched, m, network, address)
	r.end(ctx, err)
	return l, err
}

// request is one request to the upstreams, of a dial that may be over.
type request struct {
	upstreams *upstreams
	began     time.Duration // since upstreams.start
	progress  socks.Progress
	late      *time.Timer // calls unanswered after silentAfter
	failed    atomic.Pointer[upstreamFault]
}

// upstreamFault is what an upstream does wrong.
type upstreamFault struct {
	server string
	cause  error
}

// request begins a request, and returns the context for its dial.
func (u *upstreams) request(ctx context.Context) (*request, context.Context) {
	r := &request{upstreams: u, began: time.Since(u.start)}
	r.late = time.AfterFunc(silentAfter, r.unanswered)
	return r, socks.WithProgress(ctx, &r.progress)
}

// end takes the result of the dial, whose caller's context is ctx.
func (r *request) end(ctx context.Context, err error) {
	if socks.Answered(err) {
		r.upstreams.answered.Store(int64(time.Since(r.upstreams.start)))
	}
	if server, cause := socks.Fault(err); cause != nil {
		r.late.Stop()
		r.upstreams.tell(server, cause)
		return
	}
	server, cause := socks.Unanswered(err)
	if cause == nil || errors.Is(ctx.Err(), context.Canceled) { // the application gave up
		r.late.Stop()
		return
	}
	r.failed.Store(&upstreamFault{server, cause})
}

// unanswered blames the upstream unless it has answered a request since this one
// began. The dial may still be under way.
func (r *request) unanswered() {
	if time.Duration(r.upstreams.answered.Load()) > r.began {
		return
	}
	if f := r.failed.Load(); f != nil {
		r.upstreams.tell(f.server, f.cause)
	} else if server, cause := r.progress.Waits(); cause != nil {
		r.upstreams.tell(server, cause)
	}
}

// tell logs a fault of an upstream, each once a minute.
func (u *upstreams) tell(server string, cause error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	mend := upstreamMend(cause)
	fault := [2]string{server, mend}
	if last, ok := u.told[fault]; ok && time.Since(last) < faultEvery {
		return
	}
	u.told[fault] = time.Now()
	u.log.Warn("connections fail by their upstream", "via", server, "err", cause, "mend", mend)
}

// upstreamMend is what to try against an upstream's fault.
func upstreamMend(cause error) string {
	switch {
	case errors.Is(cause, socks.ErrAuth), errors.Is(cause, socks.ErrMethod):
		return "check user and password in --via"
	case errors.Is(cause, wire.ErrVersion):
		return "check the scheme and the port in --via"
	case errors.Is(cause, socks.ErrSilent):
		return "check that the upstream itself has a network, and restart it"
	case errors.Is(cause, socks.ErrHungUp):
		return "check the scheme and the port in --via, and that the upstream admits this host and has a network"
	}
	return "check that the upstream runs, the host and the port in --via, and firewalls between here and there"
}
