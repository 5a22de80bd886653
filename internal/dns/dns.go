// Package dns is the nameserver that the TUN's side is given: it forwards
// queries to the host's own nameservers, or to ones behind an upstream.
//
// # Theory of operation
//
//	program ─UDP/TCP─► stack address:53 ─► Server ─► Dialer ─► nameserver
//
// A message passes through as it came, but for what a forwarder has to touch.
// Towards the nameserver, the ID is a random one of ours, and over UDP each
// letter of the name gets a random case, from a new random port, so that an
// answer can't be forged without seeing the question (RFC 5452). An answer has to
// have that ID and repeat that question. Towards the program, ID and question are
// put back, and an answer longer than its UDP allows is cut with TC set.
//
// Nameservers are tried in the order of the configuration, one that was silent
// lately last; the next is tried when one fails, or says that it failed, and
// beside it when it is slow. The first good answer wins. UDP is tried first; TCP
// where the answer was cut, where UDP fails, which is how an upstream without
// UDP shows, and where a nameserver doesn't keep the case of letters. TCP
// connections are kept for the next queries, with many under way on each
// (RFC 7766). A query that was captured on its way to another nameserver is asked
// that one first. Everything goes through the Dialer; there is no other way out.
// When nothing answers, the program gets SERVFAIL, before it gives up itself.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"netstackd/internal/flow"
	"netstackd/internal/resolvconf"
)

// Dialer is the way to the nameservers: the host's network or an upstream.
// Only DialContext is used, with "udp" and "tcp" and an address, never a name.
type Dialer interface {
	DialContext(ctx context.Context, m *flow.Meta, network, address string) (net.Conn, error)
}

// Config of a Server. The zero value forwards to what /etc/resolv.conf says.
type Config struct {
	// Servers returns the nameservers, first choice first. It is called for
	// each query, so that it may follow changes: Nameservers.Servers, or for a
	// Dialer that is an upstream Nameservers.Remote. Nil follows /etc/resolv.conf.
	Servers func() []netip.AddrPort

	// Permit returns why a query must not be carried on, or nil. It is asked for
	// each query with its source alone, and then with each nameserver as the
	// destination; those that are refused are not asked, which is logged once.
	// Nil permits all.
	Permit func(m *flow.Meta) error

	// Captured says what becomes of a query that was captured on its way to some
	// nameserver: it is asked that one, and Captured says whether the others are
	// asked where it can't be reached, as by an upstream that is elsewhere.
	Captured Captured

	// NoIPv6 answers that there are no AAAA records, whatever the name.
	NoIPv6 bool

	// Timeout bounds one query; 0 is 4.5 s, less than the 5 s after which the
	// C library's resolver asks again.
	Timeout time.Duration

	// Stagger is how long a nameserver may take before the next is asked too;
	// 0 is 1 s.
	Stagger time.Duration

	// MaxQueries is how many queries may be under way; 0 is 512. Over UDP,
	// more are dropped; over TCP they wait.
	MaxQueries int

	// MaxConns is how many TCP connections of programs may be open; 0 is 128.
	// More wait to be accepted.
	MaxConns int

	Logger *slog.Logger // nil logs nothing; names are logged at Debug alone
}

// Captured is how captured queries are answered.
type Captured uint8

// The ways.
const (
	AskedOnly  Captured = iota // by the nameserver that was asked, or not at all
	AskedFirst                 // by Servers, where that one can't be reached
)

const (
	defaultTimeout    = 4500 * time.Millisecond
	defaultStagger    = time.Second
	defaultMaxQueries = 512
	defaultMaxConns   = 128
)

// Stats is a snapshot of a Server's counters.
type Stats struct {
	Queries   uint64 // well-formed ones
	Answered  uint64 // with a nameserver's answer
	Failed    uint64 // with SERVFAIL of our own
	Dropped   uint64 // malformed, or beyond MaxQueries
	Truncated uint64 // answers cut for a program's UDP
	TCP       uint64 // questions asked over TCP
	Forged    uint64 // answers that didn't fit their question
}

// Server forwards queries. Make one with New.
type Server struct {
	cfg     Config
	dialer  Dialer
	slots   chan struct{} // one for each query under way
	conns   chan struct{} // one for each program's TCP connection
	silent  silence
	loops   loops
	skipped sync.Map // netip.AddrPort of the nameservers that the log has named
	streams pool
	tasks   sync.WaitGroup // goroutines of queries and streams
	ran     atomic.Bool

	queries, answered, failed, dropped, truncated, tcp, forged atomic.Uint64
}

// New returns a Server that asks through dialer.
func New(dialer Dialer, cfg Config) *Server {
	if cfg.Servers == nil {
		cfg.Servers = NewNameservers(resolvconf.Path).Servers
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Stagger == 0 {
		cfg.Stagger = defaultStagger
	}
	if cfg.MaxQueries == 0 {
		cfg.MaxQueries = defaultMaxQueries
	}
	if cfg.MaxConns == 0 {
		cfg.MaxConns = defaultMaxConns
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{
		cfg:    cfg,
		dialer: dialer,
		slots:  make(chan struct{}, cfg.MaxQueries),
		conns:  make(chan struct{}, cfg.MaxConns),
	}
}

// Serve answers what comes in on packets and streams, until ctx ends or one of
// them fails, and closes them all. It can be called once. When ctx ended it
// returns nil.
func (s *Server) Serve(ctx context.Context, packets []net.PacketConn, streams []net.Listener) error {
	if s.ran.Swap(true) {
		return errors.New("dns: Serve called twice")
	}
	outer := ctx
	ctx, cancel := context.WithCancelCause(outer)
	defer cancel(nil)
	var listeners sync.WaitGroup
	for _, c := range packets {
		stop := context.AfterFunc(ctx, func() { c.Close() })
		listeners.Go(func() {
			defer stop()
			cancel(s.servePacket(ctx, c))
			c.Close()
		})
	}
	for _, l := range streams {
		stop := context.AfterFunc(ctx, func() { l.Close() })
		listeners.Go(func() {
			defer stop()
			cancel(s.serveListener(ctx, l))
			l.Close()
		})
	}
	<-ctx.Done()
	listeners.Wait()
	s.streams.close()
	s.tasks.Wait()
	if outer.Err() != nil {
		return nil
	}
	return fmt.Errorf("dns: %w", context.Cause(ctx))
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	return Stats{
		Queries:   s.queries.Load(),
		Answered:  s.answered.Load(),
		Failed:    s.failed.Load(),
		Dropped:   s.dropped.Load(),
		Truncated: s.truncated.Load(),
		TCP:       s.tcp.Load(),
		Forged:    s.forged.Load(),
	}
}
