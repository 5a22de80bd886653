package forward

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"netstackd/internal/flow"
	"netstackd/internal/ippkt"
	"netstackd/internal/netstack"
	"netstackd/internal/route"
	"netstackd/internal/sys"
)

// TCPDialer carries connections on.
type TCPDialer interface {
	// DialContext connects to host:port; its errors wrap the errno.
	DialContext(ctx context.Context, m *flow.Meta, network, address string) (net.Conn, error)
}

// Relay moves a connection's bytes, and owns it from then on.
type Relay interface {
	Join(f *flow.Flow, inbound, outbound net.Conn)
}

// TCPConfig is what a TCP forwarder works with.
type TCPConfig struct {
	Dialer TCPDialer
	Relay  Relay
	Flows  *flow.Registry
	// DialTimeout bounds one dial; 0 = 10 s.
	DialTimeout time.Duration
	// Routes says which flows may run; nil = every one.
	Routes *route.Table
	// DNS takes the connections to port 53 of any address; nil = they are carried
	// on.
	DNS *DNS
	// Log gets one line for each flow at level Debug; nil = none.
	Log *slog.Logger
}

// TCPStats counts what became of connection requests.
type TCPStats struct {
	Connected   uint64
	Refused     uint64 // closed ports, and what looks like them
	Unreachable uint64
	TimedOut    uint64
	Denied      uint64 // by Routes
	Limited     uint64 // by limits of flows, memory or descriptors; also those that gave way
	Abandoned   uint64 // given up by the application during the handshake
}

// TCP ends transparent TCP connections: it dials first, and answers the
// application's SYN with what came of that, so that a closed port looks closed
// and a silent host silent.
type TCP struct {
	cfg TCPConfig

	connected, refused, unreachable, timedOut, denied, limited, abandoned atomic.Uint64
}

// NewTCP returns a forwarder.
func NewTCP(cfg TCPConfig) *TCP {
	if cfg.DialTimeout <= 0 {
		cfg.DialTimeout = 10 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &TCP{cfg: cfg}
}

// Stats returns the forwarder's counters.
func (t *TCP) Stats() TCPStats {
	return TCPStats{
		Connected: t.connected.Load(), Refused: t.refused.Load(),
		Unreachable: t.unreachable.Load(), TimedOut: t.timedOut.Load(),
		Denied: t.denied.Load(), Limited: t.limited.Load(), Abandoned: t.abandoned.Load(),
	}
}

// Connect answers one request, on the request's own goroutine.
func (t *TCP) Connect(r *netstack.Request) {
	m := flow.Meta{Inbound: flow.Transparent, Network: "tcp", Source: r.Source(), Dest: r.Dest(), DSCP: r.DSCP()}
	if err := t.cfg.Routes.Permit(&m); err != nil {
		t.denied.Add(1)
		t.log(&m, err)
		r.Unreachable(ippkt.AdminProhibited)
		return
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	f, err := t.cfg.Flows.OpenPending(m, func() { cancel(errKilled) })
	if err != nil {
		t.limited.Add(1)
		r.Refuse()
		return
	}
	if t.cfg.DNS != nil && m.Dest.Port() == dnsPort {
		t.log(&m, t.cfg.DNS.connect(ctx, r, f))
		return
	}
	out, err := t.dial(ctx, f)
	if err != nil {
		f.Close()
		t.log(&m, err)
		t.answer(r, f, err)
		return
	}
	in, err := accept(ctx, r)
	if err == nil && !f.Establish() {
		in.Reset()
		err = errKilled
	}
	if err != nil {
		t.abandoned.Add(1)
		sys.CloseWithReset(out)
		f.Close()
		t.log(&m, err)
		return
	}
	t.connected.Add(1)
	t.log(&m, nil)
	t.cfg.Relay.Join(f, in, out)
}

func (t *TCP) dial(ctx context.Context, f *flow.Flow) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.DialTimeout)
	defer cancel()
	return t.cfg.Dialer.DialContext(ctx, f.Meta(), "tcp", f.Meta().Dest.String())
}

// acceptTimeout bounds the wait for the application's ACK. Its kernel sends it
// at once, and the SYN-ACK is sent again after 1, 3 and 7 seconds.
const acceptTimeout = 10 * time.Second

// accept completes the handshake with the application.
func accept(ctx context.Context, r *netstack.Request) (*netstack.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, acceptTimeout)
	defer cancel()
	return r.Accept(ctx)
}

var errKilled = errors.New("forward: flow killed")

// answer makes the destination look to the application as it looked to us.
func (t *TCP) answer(r *netstack.Request, f *flow.Flow, err error) {
	var timeout net.Error
	switch {
	case f.Evicted(): // the application's kernel sends its SYN again
		t.limited.Add(1)
		r.Ignore()
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EHOSTDOWN):
		t.unreachable.Add(1)
		r.Unreachable(ippkt.HostUnreachable)
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL):
		t.unreachable.Add(1)
		r.Unreachable(ippkt.NetUnreachable)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		t.unreachable.Add(1)
		r.Unreachable(ippkt.AdminProhibited)
	case errors.Is(err, syscall.ETIMEDOUT), errors.Is(err, os.ErrDeadlineExceeded),
		errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		t.timedOut.Add(1)
		r.Ignore()
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOBUFS), errors.Is(err, syscall.ENOMEM):
		t.limited.Add(1)
		t.cfg.Flows.Refuse()
		r.Refuse()
	default:
		t.refused.Add(1)
		r.Refuse()
	}
}

// log tells of one flow. A destination is a user's own affair: Debug only.
func (t *TCP) log(m *flow.Meta, err error) {
	if !t.cfg.Log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	t.cfg.Log.Debug("flow", "proto", "tcp", "src", m.Source, "dst", m.Dest, "err", err)
}
