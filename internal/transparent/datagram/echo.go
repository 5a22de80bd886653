package datagram

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"netstackd/internal/epoll"
	"netstackd/internal/flow"
	"netstackd/internal/ippkt"
	"netstackd/internal/netstack"
	"netstackd/internal/transparent/outlet"
)

// ListenPing opens a socket for echo requests; network is "ip4" or "ip6". A
// connection that is not raw is a ping socket (IPPROTO_ICMP with SOCK_DGRAM,
// icmp(7)): the kernel sets the identifier and filters for it. Either kind has
// a descriptor (syscall.Conn), and does not wait for the network.
type ListenPing func(ctx context.Context, m *flow.Meta, network string) (c net.PacketConn, raw bool, err error)

// EchoConfig tunes Echo. Its zero value works.
type EchoConfig struct {
	// Timeout ends a session that has been idle for so long; 0 = 30 s.
	Timeout time.Duration
	// Router are the stack's addresses. They send the ICMP error for a request
	// whose TTL ends here.
	Router []netip.Addr
	// ErrorLimit bounds the ICMP errors that are made here; nil = a new one.
	ErrorLimit *netstack.ErrorLimit
	// Logger gets a line at Debug for each session that fails; nil = none.
	Logger *slog.Logger
}

// Echo carries on the echo requests of applications, ICMP and ICMPv6, with a
// socket for each source and identifier. What the application gets is the real
// host's reply, a real ICMP error, or nothing. It works as UDP does. Use NewEcho.
type Echo struct {
	sessionSet
	listen ListenPing
	router []netip.Addr
}

// NewEcho returns an Echo that writes answers to l, waits for them in loop, and
// enters its sessions in flows. Serve must run.
func NewEcho(l outlet.Link, listen ListenPing, loop *epoll.Loop, flows *flow.Registry, cfg EchoConfig) *Echo {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 30 * time.Second
	}
	e := &Echo{listen: listen, router: cfg.Router}
	e.init(l, loop, flows, cfg.ErrorLimit, cfg.Logger)
	e.inline = true
	e.dial = e.dialSocket
	e.idle.init(cfg.Timeout, cfg.Timeout)
	return e
}

// dialSocket opens a session's socket.
func (e *Echo) dialSocket(ctx context.Context, s *session) (carrier, error) {
	network := "ip6"
	if s.src.Addr().Is4() {
		network = "ip4"
	}
	c, raw, err := e.listen(ctx, &s.meta, network)
	if err != nil {
		return nil, err
	}
	return newPingSocket(s, c, raw)
}

// HandlePacket implements netstack.PacketHandler for ICMP and ICMPv6. It takes
// all of it: any other answer would be made up.
func (e *Echo) HandlePacket(p *netstack.Packet) bool {
	if !ippkt.IsEchoRequest(p.Proto, p.Transport) || !ippkt.Unicast(p.Src) || !ippkt.Unicast(p.Dst) || !icmpValid(p) {
		e.counters.droppedInvalid.Add(1)
		return true
	}
	if p.TTL <= 1 {
		e.hopsExhausted(p, e.router)
		return true
	}
	src := netip.AddrPortFrom(p.Src, be16(p.Transport[4:])) // the identifier
	dst := netip.AddrPortFrom(p.Dst, 0)
	s := e.table.get(src)
	if s == nil {
		if s = e.openSession("icmp", src, dst, p.Hash, false); s == nil {
			return true
		}
	}
	s.put(p, dst)
	return true
}
