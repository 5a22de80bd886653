package socks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"netstackd/queue/admission"
	"netstackd/queue/gopool"
	"netstackd/socks/wire"
)

// Server is a SOCKS4, SOCKS4a, SOCKS5 and HTTP proxy on one port.
type Server struct {
	cfg        Config
	handshakes *admission.Limiter
	relays     sync.Map           // netip.AddrPort of the sockets that associations' clients send to
	idle       *admission.Limiter // HTTP connections between two requests
	stats      counters
}

// NewServer returns a server. No goroutine starts before Serve.
func NewServer(cfg Config) *Server {
	cfg = cfg.withDefaults()
	return &Server{
		cfg: cfg,
		handshakes: admission.New(admission.Config{
			Total:     cfg.MaxHandshakes,
			PerSource: cfg.MaxHandshakesPerClient,
			Patience:  patience,
		}),
		idle: admission.New(admission.Config{Total: cfg.MaxIdle, PerSource: cfg.MaxIdlePerClient}),
	}
}

// Relays reports whether a is where the client of one of the server's UDP
// associations sends its datagrams; it has no zone. A rule should keep other flows from there:
// they would come from this host, and could pass for that client.
func (s *Server) Relays(a netip.AddrPort) bool {
	_, ok := s.relays.Load(a)
	return ok
}

// dialer returns what carries a request on.
func (s *Server) dialer(r *Request) Dialer {
	if s.cfg.Dialer != nil {
		if d := s.cfg.Dialer(r); d != nil {
			return d
		}
	}
	return hostDialer{}
}

// judge returns why the rule refuses a request, or nil.
func (s *Server) judge(r *Request) error {
	if s.cfg.Rule == nil {
		return nil
	}
	if err := s.cfg.Rule(r); err != nil {
		return fmt.Errorf("%w: %w", ErrRule, err)
	}
	return nil
}

type counters struct {
	accepted, denied, badAuth, malformed, failed, refused atomic.Int64
	connects, binds, associations, requests               atomic.Int64
	datagramsIn, datagramsOut, datagramsDropped           atomic.Int64
}

// Stats counts what a server has done since it was made.
type Stats struct {
	Accepted   int64 // connections
	Denied     int64 // reset because Rule refused the client
	BadAuth    int64 // refused for their credentials
	Malformed  int64 // spoke none of the protocols, or too slowly
	Failed     int64 // flows whose destination could not be reached
	Refused    int64 // flows refused by rule or limit
	Connects   int64 // CONNECT, of any protocol, that succeeded
	Binds      int64 // BIND that succeeded
	Associated int64 // UDP associations made
	Requests   int64 // plain HTTP requests

	DatagramsIn      int64 // from clients, carried on
	DatagramsOut     int64 // to clients
	DatagramsDropped int64 // either way: malformed, foreign, fragments, unsendable

	Handshakes        int   // under way now
	HandshakesEvicted int64 // gave way, or were refused, at the limit
	Idle              int   // HTTP connections between two requests now
	IdleEvicted       int64 // gave way at the limit
}

// Stats returns the server's counters.
func (s *Server) Stats() Stats {
	c := &s.stats
	st := Stats{
		Accepted:         c.accepted.Load(),
		Denied:           c.denied.Load(),
		BadAuth:          c.badAuth.Load(),
		Malformed:        c.malformed.Load(),
		Failed:           c.failed.Load(),
		Refused:          c.refused.Load(),
		Connects:         c.connects.Load(),
		Binds:            c.binds.Load(),
		Associated:       c.associations.Load(),
		Requests:         c.requests.Load(),
		DatagramsIn:      c.datagramsIn.Load(),
		DatagramsOut:     c.datagramsOut.Load(),
		DatagramsDropped: c.datagramsDropped.Load(),
	}
	handshakes := s.handshakes.Stats()
	st.Handshakes, st.HandshakesEvicted = handshakes.Held, handshakes.Evicted+handshakes.Refused
	idle := s.idle.Stats()
	st.Idle, st.IdleEvicted = idle.Held, idle.Evicted
	return st
}

// Spare ends a connection that carries nothing, so that its descriptor may be
// used for one that does, and reports whether there was one: an idle HTTP
// client's, or one that has taken long over its handshake.
func (s *Server) Spare() bool {
	return s.idle.EvictOldest(0) || s.handshakes.EvictOldest(patience)
}

// Serve accepts from ln, which it closes, until ctx ends; it then returns nil.
// Handshakes, SOCKS dials and waiting BINDs end with ctx. HTTP requests, with their
// dials, and everything else end after Config.DrainTimeout at the latest, except
// the connections of Config.Relay. Serve may run for several listeners.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	l := &service{Server: s, drain: newDrain(ctx, s.cfg.DrainTimeout), relay: s.cfg.Relay}
	if l.relay == nil {
		l.relay = copies{l.drain.ctx, &l.wg}
	}
	l.web = newWeb(l)
	defer l.drain.stop()
	defer l.wg.Wait()
	defer l.clients.Wait()
	defer cancel() // on a failed Accept the handshakes end as well
	l.wg.Go(func() { l.web.serve(ctx) })
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	defer ln.Close()

	var pause time.Duration
	for {
		c, err := ln.Accept()
		if err == nil {
			pause = 0
			s.stats.accepted.Add(1)
			l.clients.Go(func() { l.serveConn(ctx, c) })
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		if !transient(err) {
			return fmt.Errorf("socks: listener %v: %w", ln.Addr(), err)
		}
		// Out of descriptors or memory: evict, and wait. Connections stay in the
		// kernel's backlog meanwhile.
		_ = s.Spare() || s.handshakes.EvictOldest(0)
		pause = min(max(2*pause, 5*time.Millisecond), 500*time.Millisecond)
		s.cfg.Log.Warn("accept", slog.String("proto", "socks"), slog.Any("err", err), slog.Duration("pause", pause))
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

func transient(err error) bool {
	return is(err, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EINTR)
}

// service is one run of Serve.
type service struct {
	*Server
	wg      sync.WaitGroup
	clients gopool.Pool
	web     *web
	drain   *drain
	relay   Relay
}

// Causes for which a client's context ends, besides the server's own.
var (
	errEvicted = fmt.Errorf("socks: gave way to another client: %w", syscall.ETIMEDOUT)
	errGone    = errors.New("socks: client is gone")
	errKilled  = errors.New("socks: flow was killed")
)

// client is one accepted connection until it is joined, or for an association
// until it ends. One goroutine works on it.
type client struct {
	*service
	conn     net.Conn
	in       *reader
	src      netip.AddrPort   // the client
	local    netip.AddrPort   // the address that it connected to
	user     string           // authenticated
	place    *admission.Place // among the handshakes
	protocol Protocol         // "" before the first byte
	// answer appends the protocol's reply. Cause may be nil.
	answer func(b []byte, r wire.Reply, bnd netip.AddrPort, cause error) []byte
	cancel context.CancelCauseFunc
}

// serveConn carries a connection from its first byte to the relay.
func (s *service) serveConn(ctx context.Context, conn net.Conn) {
	src := addrPort(conn.RemoteAddr())
	if err := s.judge(&Request{Source: src}); err != nil {
		s.stats.denied.Add(1)
		s.cfg.Log.Debug("refused", "proto", "socks", "src", src, "err", err)
		abort(conn)
		return
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	place, ok := s.handshakes.Enter(src.Addr(), func() { cancel(errEvicted) })
	if !ok {
		abort(conn)
		return
	}
	if ka, ok := conn.(interface {
		SetKeepAliveConfig(net.KeepAliveConfig) error
	}); ok && s.cfg.KeepAlive != (net.KeepAliveConfig{}) {
		ka.SetKeepAliveConfig(s.cfg.KeepAlive)
	}
	conn.SetDeadline(time.Now().Add(s.cfg.HandshakeTimeout))
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(aLongTimeAgo) })
	defer stop()

	c := &client{
		service: s,
		conn:    conn,
		in:      newReader(conn),
		src:     src,
		local:   addrPort(conn.LocalAddr()),
		place:   place,
		cancel:  cancel,
	}
	defer func() { // take clears both
		c.place.Leave()
		c.in.free()
	}()
	if err := c.in.more(); err != nil {
		c.malformed(err)
		return
	}
	switch first := c.in.bytes()[0]; {
	case first == wire.Version5:
		c.serve5(ctx, stop)
	case first == wire.Version4:
		c.serve4(ctx, stop)
	case 'A' <= first && first <= 'Z' || 'a' <= first && first <= 'z':
		if stop() {
			s.web.take(c)
		} else {
			abort(conn)
		}
	default:
		c.malformed(wire.ErrVersion)
	}
}

// malformed resets a connection without a reply.
func (c *client) malformed(err error) {
	c.stats.malformed.Add(1)
	c.log("handshake", "", err)
	if err == io.EOF { // the client has closed; no byte is unread
		c.conn.Close()
		return
	}
	abort(c.conn)
}

func (c *client) log(what, dst string, err error) {
	if !c.cfg.Log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	attrs := []slog.Attr{slog.String("proto", cmp.Or(string(c.protocol), "socks")), slog.String("src", c.src.String())}
	if dst != "" {
		attrs = append(attrs, slog.String("dst", dst))
	}
	if err != nil {
		attrs = append(attrs, slog.Any("err", err))
	}
	c.cfg.Log.LogAttrs(context.Background(), slog.LevelDebug, what, attrs...)
}

// drain holds a context that ends some time after its parent: for what may continue
// when the context of Serve has ended.
type drain struct {
	ctx    context.Context
	cancel context.CancelFunc
	unhook func() bool
}

func newDrain(parent context.Context, grace time.Duration) *drain {
	d := &drain{}
	d.ctx, d.cancel = context.WithCancel(context.WithoutCancel(parent))
	d.unhook = context.AfterFunc(parent, func() {
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-timer.C:
			d.cancel()
		case <-d.ctx.Done():
		}
	})
	return d
}

// stop releases what d holds.
func (d *drain) stop() {
	d.unhook()
	d.cancel()
}
