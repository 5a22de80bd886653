// Package tcp ends the TCP connections that applications open to any address
// that is not the stack's own, and carries them on.
//
// # Theory of operation
//
// The forwarder dials first and only then completes the application's handshake.
// So a closed port looks closed to the application, and a silent host silent.
// The stack calls Connect for each SYN, on a goroutine of the request, and
// ignores repeated SYNs until the request has its answer.
//
//	state      event                       action                    next
//	-          SYN                         ask the rules             deciding
//	deciding   refused                     ICMP prohibited           end
//	deciding   no room in the registry     RST                       end
//	deciding   port 53, DNS admits it      accept; DNS takes it      accepting
//	deciding   port 53, DNS does not       RST                       end
//	deciding   allowed                     dial                      dialing
//	dialing    connected                   SYN-ACK                   accepting
//	dialing    refused, other errors       RST                       end
//	dialing    host or net unreachable,    ICMP unreachable          end
//	           prohibited
//	dialing    timed out                   silence: the next SYN     end
//	                                       is a new request
//	dialing    out of descriptors, memory  count; RST                end
//	dialing    evicted                     silence                   end
//	dialing    killed                      RST                       end
//	accepting  ACK                         give both connections     relayed
//	                                       to the relay
//	accepting  RST, time-out, killed       reset the outbound        end
//	relayed    -                           the relay owns both
//
// Timers: DialTimeout for dialing (10 s), acceptTimeout for accepting (10 s). The
// request's goroutine owns everything until the relay does; there is no lock.
package tcp

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
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

// Dialer carries connections on.
type Dialer interface {
	// DialContext connects to host:port; its errors wrap the errno.
	DialContext(ctx context.Context, m *flow.Meta, network, address string) (net.Conn, error)
}

// Relay moves a connection's bytes, and owns it from then on.
type Relay interface {
	Join(f *flow.Flow, inbound, outbound net.Conn)
}

// Interceptor takes the connections to port 53. *intercept.DNS is one.
type Interceptor interface {
	// Admits returns nil if a connection may be taken, flow.ErrLimit if there are too
	// many, or another error if the client may not ask.
	Admits(client, server netip.AddrPort) error
	// TakeStream takes an established connection, and its flow.
	TakeStream(in *netstack.Conn, f *flow.Flow) error
}

// Config is what a Forwarder works with.
type Config struct {
	Dialer Dialer
	Relay  Relay
	Flows  *flow.Registry
	// DialTimeout bounds one dial; 0 = 10 s.
	DialTimeout time.Duration
	// Routes says which flows may run; nil = every one.
	Routes *route.Table
	// DNS takes the connections to port 53 of any address; nil = they are carried
	// on.
	DNS Interceptor
	// Log gets one line for each flow at level Debug; nil = none.
	Log *slog.Logger
}

// Stats counts what became of connection requests.
type Stats struct {
	Connected   uint64
	Refused     uint64 // closed ports, and what looks like them
	Unreachable uint64
	TimedOut    uint64
	Denied      uint64 // by Routes, or by the Interceptor
	Limited     uint64 // by limits of flows, memory or descriptors; also evicted while dialing
	Abandoned   uint64 // given up by the application during the handshake
}

// Forwarder ends transparent TCP connections. Use New.
type Forwarder struct {
	cfg Config

	connected, refused, unreachable, timedOut, denied, limited, abandoned atomic.Uint64
}

// New returns a forwarder.
func New(cfg Config) *Forwarder {
	if cfg.DialTimeout <= 0 {
		cfg.DialTimeout = 10 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Forwarder{cfg: cfg}
}

// Stats returns the forwarder's counters.
func (t *Forwarder) Stats() Stats {
	return Stats{
		Connected: t.connected.Load(), Refused: t.refused.Load(),
		Unreachable: t.unreachable.Load(), TimedOut: t.timedOut.Load(),
		Denied: t.denied.Load(), Limited: t.limited.Load(), Abandoned: t.abandoned.Load(),
	}
}

// Connect answers one request. It blocks until the connection is relayed or
// refused.
func (t *Forwarder) Connect(r *netstack.Request) {
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
		t.log(&m, err)
		r.Refuse()
		return
	}
	if t.cfg.DNS != nil && m.Dest.Port() == dnsPort {
		t.log(&m, t.intercept(ctx, r, f))
		return
	}
	out, err := t.dial(ctx, f)
	if err != nil {
		f.Close()
		t.log(&m, err)
		t.answer(r, f, err)
		return
	}
	in, err := accept(ctx, r, f)
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

func (t *Forwarder) dial(ctx context.Context, f *flow.Flow) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.DialTimeout)
	defer cancel()
	return t.cfg.Dialer.DialContext(ctx, f.Meta(), "tcp", f.Meta().Dest.String())
}

// acceptTimeout bounds the wait for the application's ACK. Its kernel sends it
// at once, and the SYN-ACK is sent again after 1, 3 and 7 seconds.
const acceptTimeout = 10 * time.Second

// accept completes the handshake with the application, and establishes the flow.
func accept(ctx context.Context, r *netstack.Request, f *flow.Flow) (*netstack.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, acceptTimeout)
	defer cancel()
	in, err := r.Accept(ctx)
	if err == nil && !f.Establish() {
		in.Reset()
		err = errKilled
	}
	return in, err
}

var errKilled = errors.New("flow killed")

const dnsPort = 53

// intercept gives a connection to port 53 to the Interceptor.
func (t *Forwarder) intercept(ctx context.Context, r *netstack.Request, f *flow.Flow) error {
	if err := t.cfg.DNS.Admits(f.Meta().Source, f.Meta().Dest); err != nil {
		if errors.Is(err, flow.ErrLimit) {
			t.limited.Add(1)
		} else {
			t.denied.Add(1)
		}
		r.Refuse()
		f.Close()
		return err
	}
	in, err := accept(ctx, r, f)
	if err != nil {
		f.Close()
		return err
	}
	return t.cfg.DNS.TakeStream(in, f)
}

// answer translates the error of the dial into what the application sees: RST, an
// ICMP error, or silence.
func (t *Forwarder) answer(r *netstack.Request, f *flow.Flow, err error) {
	var timeout net.Error
	switch {
	case f.Evicted(): // silence: the application's kernel repeats its SYN
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

// log writes one line for a flow. Destinations are private, so the level is Debug.
func (t *Forwarder) log(m *flow.Meta, err error) {
	if !t.cfg.Log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	t.cfg.Log.Debug("flow", "proto", "tcp", "src", m.Source, "dst", m.Dest, "err", err)
}
