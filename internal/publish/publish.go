// Package publish leads ports of the host to the servers of a command that runs
// inside a sandbox.
//
// # Theory of operation
//
//	TCP client ─► listener ─► Dial inside, at once  ─► Join (relay)
//	UDP client ─► socket ─► session ─► socket inside ─► the command's server
//	           ◄─────────── the session's goroutine ◄──
//
// A TCP connection is one flow. UDP has a session for each client address: a
// connected socket inside, so that the server sees each client at a port of its
// own and the answers are told apart. A session ends when it is idle, when the
// server's port is closed, when its flow is killed, or, least recently used
// first, when there are too many. The next datagram begins another.
//
// One goroutine reads a published UDP port and never waits for the sandbox:
// another opens the sessions, one after the other, and the datagrams that come
// meanwhile wait in the session, within limits. So a flood of new clients delays
// new sessions and not those that are open.
package publish

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"netstackd/internal/flow"
	"netstackd/internal/hostnet"
)

// Port is one published port: what reaches Listen on the host is led to the
// server's Port inside.
type Port struct {
	Network string // "tcp" or "udp"
	Listen  netip.AddrPort
	Port    uint16
}

// String returns the port as it is written on the command line.
func (p Port) String() string {
	if p.Network == "tcp" {
		return fmt.Sprintf("%s:%d", p.Listen, p.Port)
	}
	return fmt.Sprintf("%s:%d/%s", p.Listen, p.Port, p.Network)
}

// Config of a Server. Dial, Inside, Flows, Permit and Join are required.
type Config struct {
	// Dial connects inside. A UDP address without a host is that of the server's
	// socket; the error wraps ECONNREFUSED when there is none.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Inside is where a TCP server may listen, in the order to try.
	Inside []netip.Addr
	Flows  *flow.Registry
	Permit func(*flow.Meta) error
	// Join relays between the ends of a TCP flow, and takes all three over. It
	// returns at once.
	Join func(f *flow.Flow, inbound, outbound net.Conn)

	KeepAlive   net.KeepAliveConfig // of both ends of a TCP flow
	UDPTimeout  time.Duration       // ends an idle UDP session; 0 = 5 minutes
	MaxSessions int                 // UDP sessions at once; 0 = 1024
	Logger      *slog.Logger        // nil logs nothing
}

// Stats counts what the UDP ports of a Server did.
type Stats struct {
	Sessions int    // open now
	Opened   uint64 // ever
	Expired  uint64 // ended by being idle
	Evicted  uint64 // ended, least recently used first, to make room
	Refused  uint64 // sessions that could not be opened
	Dropped  uint64 // datagrams that no session took, or no socket
}

// Server serves published ports.
type Server struct {
	cfg     Config
	tcp     []tcpPort
	udp     []*udpPort
	udpSet  *sessions
	ctx     context.Context // of what is being dialed; ends with Close
	cancel  context.CancelFunc
	serving sync.WaitGroup // accepting, receiving and opening
	closing sync.Once
}

// Listen opens the ports on the host. Clients wait in the kernel until Start.
func Listen(ctx context.Context, cfg Config, ports ...Port) (*Server, error) {
	if cfg.UDPTimeout <= 0 {
		cfg.UDPTimeout = 5 * time.Minute
	}
	if cfg.MaxSessions <= 0 {
		cfg.MaxSessions = 1024
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg}
	s.udpSet = newSessions(&s.cfg)
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	for _, p := range ports {
		var err error
		if p.Network == "udp" {
			err = s.listenUDP(ctx, p)
		} else {
			err = s.listenTCP(ctx, p)
		}
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("%v: %w", p, err)
		}
	}
	return s, nil
}

func (s *Server) listenTCP(ctx context.Context, p Port) error {
	ln, err := hostnet.ListenLocal(ctx, p.Listen.String(), s.cfg.KeepAlive)
	if err != nil {
		return err
	}
	s.tcp = append(s.tcp, tcpPort{s, ln, p.Port})
	return nil
}

func (s *Server) listenUDP(ctx context.Context, p Port) error {
	c, err := hostnet.ListenLocalPacket(ctx, p.Listen.String())
	if err != nil {
		return err
	}
	port := newUDPPort(s.udpSet, c, p.Port)
	s.udp = append(s.udp, port)
	if p.Listen.Addr().IsUnspecified() {
		return port.reportLocal()
	}
	return nil
}

// Start serves the ports until Close. Dial has to work by now.
func (s *Server) Start() {
	for _, p := range s.tcp {
		s.serving.Go(func() { p.accept(s.ctx) })
	}
	if len(s.udp) > 0 {
		s.serving.Go(func() { s.udpSet.open(s.ctx) })
	}
	for _, p := range s.udp {
		s.serving.Go(func() { p.receive(s.ctx) })
	}
}

// closeWait bounds how long the answers that are left may take to leave.
const closeWait = time.Second

// Close ends the UDP sessions, after the answers that have come, and what is
// being dialed. TCP flows that are joined go on. It is idempotent.
func (s *Server) Close() {
	s.closing.Do(func() {
		s.cancel()
		for _, p := range s.tcp {
			p.ln.Close()
		}
		for _, p := range s.udp {
			_ = p.conn.SetReadDeadline(time.Unix(1, 0))
			_ = p.conn.SetWriteDeadline(time.Now().Add(closeWait))
		}
		s.serving.Wait()
		s.udpSet.shutdown()
		for _, p := range s.udp {
			p.conn.Close()
		}
	})
}

// EvictSession ends the least recently used UDP session, and reports whether there
// was one.
func (s *Server) EvictSession() bool { return s.udpSet.evict(netip.Addr{}) }

// Stats returns the counters.
func (s *Server) Stats() Stats { return s.udpSet.stats() }

// pause waits after an error that passes, longer each time in a row.
type pause time.Duration

const shortestPause, longestPause = 5 * time.Millisecond, 500 * time.Millisecond

// wait reports false when ctx has ended.
func (p *pause) wait(ctx context.Context) bool {
	*p = pause(min(max(2*time.Duration(*p), shortestPause), longestPause))
	select {
	case <-time.After(time.Duration(*p)):
		return true
	case <-ctx.Done():
		return false
	}
}
