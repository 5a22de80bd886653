package daemon

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"time"

	"netstackd/internal/flow"
	"netstackd/socks"
)

// faultEvery is how often, at most, the user is told that an upstream is at
// fault. Each of an application's connections finds it out anew.
const faultEvery = time.Minute

// upstreams is a dialer by --via that tells the user when it is an upstream
// that makes flows fail: a mistyped password looks like a dead network
// otherwise.
type upstreams struct {
	dialer
	log *slog.Logger

	mu   sync.Mutex
	told time.Time
}

// DialContext implements dialer.
func (u *upstreams) DialContext(ctx context.Context, m *flow.Meta, network, address string) (net.Conn, error) {
	c, err := u.dialer.DialContext(ctx, m, network, address)
	u.judge(err)
	return c, err
}

// ListenPacket implements dialer.
func (u *upstreams) ListenPacket(ctx context.Context, m *flow.Meta, network, address string) (net.PacketConn, error) {
	c, err := u.dialer.ListenPacket(ctx, m, network, address)
	u.judge(err)
	return c, err
}

// Listen implements dialer.
func (u *upstreams) Listen(ctx context.Context, m *flow.Meta, network, address string) (net.Listener, error) {
	l, err := u.dialer.Listen(ctx, m, network, address)
	u.judge(err)
	return l, err
}

// judge says what is wrong with an upstream if that is why a flow failed.
func (u *upstreams) judge(err error) {
	if err == nil {
		return
	}
	server, cause := socks.Fault(err)
	if cause == nil || !u.mayTell() {
		return
	}
	u.log.Warn("connections fail by their upstream", "via", server, "err", cause)
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
