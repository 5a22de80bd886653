package socks

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"netstackd/internal/flow"
)

// Dialer is how a flow is carried on: by the host's kernel, by an upstream
// proxy, by the userspace stack. Errors wrap the real syscall.Errno, a
// *net.DNSError or a timeout, since the client's reply is made from them.
type Dialer interface {
	// DialContext opens a "tcp" connection or a connected "udp" socket to
	// address, host:port, whose host may be a name.
	DialContext(ctx context.Context, m *flow.Meta, network, address string) (net.Conn, error)
	// ListenPacket opens one unconnected UDP socket; network is "udp", "udp4"
	// or "udp6", address the local one ("" for any).
	ListenPacket(ctx context.Context, m *flow.Meta, network, address string) (net.PacketConn, error)
	// Listen waits for connections from the outside.
	Listen(ctx context.Context, m *flow.Meta, network, address string) (net.Listener, error)
}

// Relay copies between two connections until both directions have ended.
type Relay interface {
	// Join takes ownership of f and both connections and returns at once.
	Join(f *flow.Flow, inbound, outbound net.Conn)
}

// Resolver looks up names. A *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Config sets what a Server does. The zero value serves everybody who can
// reach it, without authentication.
type Config struct {
	// Inbound is what flows are registered as; SOCKSHost when zero. Those that
	// come by HTTP are registered as HTTPProxy.
	Inbound flow.Inbound
	// Auth holds who may use the server; nil for everybody.
	Auth *Credentials
	// Rule returns why a flow is refused, or nil. It is asked
	//   - for a client, before its first byte is read: the flow has a source and
	//     no destination. When it is refused the connection is reset;
	//   - for each request, each datagram, and each peer that connects to a BIND:
	//     the destination is an address, or a name that is not looked up yet. A
	//     refused request gets reply 2.
	// The flow is valid during the call. Nil allows everything.
	Rule func(m *flow.Meta) error
	// Upstream says that the Dialer's connections come from another host, as a
	// Client's do, and that its Listen listens there. For a *Client it is set.
	Upstream bool
	// Resolver looks up the names that UDP datagrams are sent to. Nil leaves
	// them to the Dialer's PacketConn, which is then given an Addr with a name.
	Resolver Resolver
	// ListenUDP opens the socket that clients send their datagrams to, on the
	// address that the client reached the server by. Nil is a host socket.
	ListenUDP func(local netip.Addr) (net.PacketConn, error)

	HandshakeTimeout time.Duration // from accept to the whole request; 0 = 10s
	DialTimeout      time.Duration // one outbound dial; 0 = 10s
	BindTimeout      time.Duration // how long BIND waits for its peer; 0 = 3m
	UDPTimeout       time.Duration // idle association; 0 = 5m
	// DrainTimeout is how long Serve, once told to stop, lets UDP associations
	// and plain HTTP requests finish. Connections live on in the relay and are
	// not waited for.
	DrainTimeout time.Duration

	// Handshakes under way at once, of one client and in all. At the limit the
	// oldest gives way. Dials and flows are bounded by the flow registry.
	MaxHandshakes          int // 0 = 16384
	MaxHandshakesPerClient int // 0 = a quarter of MaxHandshakes, but no fewer than 64

	// HTTP connections that wait for another request, of one client and in all.
	// At the limit the oldest is closed.
	MaxIdle          int // 0 = 4096
	MaxIdlePerClient int // 0 = a quarter of MaxIdle, but no fewer than 64

	// KeepAlive of accepted connections; zero leaves what the listener sets,
	// which for the net package's is on, after 15s.
	KeepAlive net.KeepAliveConfig
	Log       *slog.Logger // nil = no log
}

// defaultHandshakeTimeout is for both sides.
const defaultHandshakeTimeout = 10 * time.Second

// patience is how long a handshake is left alone before it may have to give way
// to another.
const patience = time.Second

func (c Config) withDefaults() Config {
	if c.Inbound == flow.Transparent {
		c.Inbound = flow.SOCKSHost
	}
	if c.ListenUDP == nil {
		c.ListenUDP = listenHostUDP
	}
	c.HandshakeTimeout = cmp.Or(c.HandshakeTimeout, defaultHandshakeTimeout)
	c.DialTimeout = cmp.Or(c.DialTimeout, 10*time.Second)
	c.BindTimeout = cmp.Or(c.BindTimeout, 3*time.Minute)
	c.UDPTimeout = cmp.Or(c.UDPTimeout, 5*time.Minute)
	c.MaxHandshakes = cmp.Or(c.MaxHandshakes, 16384)
	c.MaxHandshakesPerClient = cmp.Or(c.MaxHandshakesPerClient, share(c.MaxHandshakes))
	c.MaxIdle = cmp.Or(c.MaxIdle, 4096)
	c.MaxIdlePerClient = cmp.Or(c.MaxIdlePerClient, share(c.MaxIdle))
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// share is how many of n places one client may have.
func share(n int) int { return max(n/4, min(n, 64)) }

func listenHostUDP(local netip.Addr) (net.PacketConn, error) {
	network := "udp4"
	if local.Is6() {
		network = "udp6"
	}
	return net.ListenUDP(network, net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, 0)))
}

// NeedsAllowOpen reports whether a listener on addr, host:port, can be reached
// by other hosts: without authentication it would be an open proxy there.
func NeedsAllowOpen(addr net.Addr) bool {
	ap := addrPort(addr)
	return !ap.Addr().IsLoopback()
}
