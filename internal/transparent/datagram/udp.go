package datagram

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"netstackd/internal/epoll"
	"netstackd/internal/flow"
	"netstackd/internal/ippkt"
	"netstackd/internal/netstack"
	"netstackd/internal/transparent/outlet"
)

// PacketDialer opens the outbound sockets of UDP sessions. Where it returns a
// *net.UDPConn, UDP takes the descriptor over and moves packets in batches;
// any other net.PacketConn is read and written one datagram at a time.
type PacketDialer interface {
	ListenPacket(ctx context.Context, m *flow.Meta, network, address string) (net.PacketConn, error)
}

// Interceptor takes DNS queries. *intercept.DNS is one.
type Interceptor interface {
	// TakeDatagram takes the n bytes of payload of a datagram to port 53, or the
	// datagrams of a train, if they are queries. It must not block.
	TakeDatagram(p *netstack.Packet, src, dst netip.AddrPort, n int) bool
}

// UDPConfig tunes UDP. Its zero value works.
type UDPConfig struct {
	// Timeout ends a session that has been idle for so long; 0 = 5 minutes
	// (RFC 4787 §4.3). Those that only ever talked to port 53 end after 10
	// seconds, or Timeout if that is less.
	Timeout time.Duration
	// Inline says that ListenPacket does not wait for the network, so that it
	// may be called while packets are delivered. Else each call has a goroutine,
	// and the session's first datagrams wait for it.
	Inline bool
	// KeepPort reports whether a session's outbound socket is to have the
	// application's own port where that is free (RFC 4787 §4.2.1); nil = none is.
	KeepPort func(src netip.AddrPort) bool
	// Router are the stack's addresses. They send the ICMP error for a datagram
	// whose TTL ends here. A family without an address sends none.
	Router []netip.Addr
	// DNS takes the queries to port 53 of any address; nil = they are carried on.
	DNS Interceptor
	// ErrorLimit bounds the ICMP errors that are made here; nil = a new one.
	ErrorLimit *netstack.ErrorLimit
	// Logger gets a line at Debug for each session that fails; nil = none.
	Logger *slog.Logger
}

// UDP carries on the datagrams of applications, with one outbound socket for
// each of their addresses, whatever the destinations (endpoint-independent
// mapping, RFC 4787 §4.1), and gives them what anyone sends to that socket
// (endpoint-independent filtering, §5). Use NewUDP.
//
// # Theory of operation
//
//	delivery ─► HandlePacket ─► session's batch ─► Flush ─► sendmmsg ─► network
//	TUN ◄─ Link.WriteRaw ◄─ outlet ◄─ recvmmsg ◄─ session's task ◄─ epoll
//
// HandlePacket finds the session and keeps a reference to the packet. Flush,
// which follows each batch of packets, sends what each session has collected
// with one system call that does not wait: neighbouring datagrams of one size
// and destination as one train (UDP_SEGMENT), and trains as they came.
//
// A session costs a descriptor, an entry in a map and one in a heap; it has
// neither goroutine nor buffer. When its socket becomes readable, its task
// takes a bounded batch, with trains where the kernel has merged them
// (UDP_GRO), and writes it into the TUN, as super-packets where the device
// takes them.
//
// Neither way is a packet copied or memory allocated, once pools are warm.
type UDP struct {
	sessionSet
	dialer   PacketDialer
	keepPort func(src netip.AddrPort) bool
	router   []netip.Addr
	dns      Interceptor
}

// NewUDP returns a UDP that writes answers to l, opens sockets with d, waits
// for them in loop and enters its sessions in flows. Serve must run.
func NewUDP(l outlet.Link, d PacketDialer, loop *epoll.Loop, flows *flow.Registry, cfg UDPConfig) *UDP {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 5 * time.Minute
	}
	u := &UDP{dialer: d, keepPort: cfg.KeepPort, router: cfg.Router, dns: cfg.DNS}
	u.init(l, loop, flows, cfg.ErrorLimit, cfg.Logger)
	u.inline = cfg.Inline
	u.dial = u.dialSocket
	u.idle.init(cfg.Timeout, min(cfg.Timeout, dnsTimeout))
	return u
}

// dialSocket opens a session's socket.
func (u *UDP) dialSocket(ctx context.Context, s *session) (carrier, error) {
	network := "udp6"
	if s.src.Addr().Is4() {
		network = "udp4"
	}
	address := ""
	if u.keepPort != nil && u.keepPort(s.src) {
		address = ":" + strconv.Itoa(int(s.src.Port()))
	}
	c, err := u.dialer.ListenPacket(ctx, &s.meta, network, address)
	if address != "" && (errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EACCES)) {
		c, err = u.dialer.ListenPacket(ctx, &s.meta, network, "")
	}
	if err != nil {
		return nil, err
	}
	if uc, ok := c.(*net.UDPConn); ok {
		return newUDPSocket(s, uc)
	}
	return newProxied(s, c), nil
}

// HandlePacket implements netstack.PacketHandler for UDP.
func (u *UDP) HandlePacket(p *netstack.Packet) bool {
	if len(p.Transport) < ippkt.UDPLen {
		u.counters.droppedInvalid.Add(1)
		return true
	}
	src := netip.AddrPortFrom(p.Src, be16(p.Transport))
	dst := netip.AddrPortFrom(p.Dst, be16(p.Transport[2:]))
	n := int(be16(p.Transport[4:])) - ippkt.UDPLen
	if !ippkt.Unicast(p.Src) || !ippkt.Unicast(p.Dst) || src.Port() == 0 || dst.Port() == 0 ||
		p.GSOSize == 0 && (n < 0 || n > p.Buf.Data().Size()) {
		u.counters.droppedInvalid.Add(1)
		return true
	}
	if p.TTL <= 1 {
		u.hopsExhausted(p, u.router)
		return true
	}
	if dst.Port() == dnsPort && u.dns != nil && u.dns.TakeDatagram(p, src, dst, n) {
		return true
	}
	s := u.table.get(src)
	if s == nil {
		if s = u.openSession("udp", src, dst, p.Hash, dst.Port() == dnsPort); s == nil {
			return true
		}
	}
	if s.short.Load() && dst.Port() != dnsPort {
		u.idle.lengthen(s)
	}
	s.put(p, dst)
	return true
}

// hopsExhausted answers like a router, whose next hop would be the network.
func (u *sessionSet) hopsExhausted(p *netstack.Packet, router []netip.Addr) {
	for _, a := range router {
		if a.Is4() == p.Src.Is4() {
			q := quoteOf(p)
			u.localError(p.Hash, ippkt.TTLExceeded(a), &q)
			return
		}
	}
}
