package socks

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"netstackd/socks/wire"
)

// Authenticator checks the user name and the password of a client, as
// netstackd/socks/auth does.
type Authenticator interface {
	// VerifyFrom reports whether the user, at a source address, gave the right
	// password. It returns false when ctx ends.
	VerifyFrom(ctx context.Context, source netip.Addr, up wire.UserPass) bool
}

// Resolver looks up names. A *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Config sets what a Server does. The zero value serves each client that reaches
// it, without authentication, over the host's own network.
type Config struct {
	// Name is what the server calls itself in HTTP header fields; "" = "socks".
	Name string
	// Auth decides which users may use the server; nil = no authentication.
	Auth Authenticator
	// Rule returns why a request is refused, or nil. It is called
	//   - for a client, before its first byte is read: the request has only a
	//     source. If it is refused, the connection is reset;
	//   - for each request, each datagram, and each peer that connects to a BIND:
	//     the destination is an address, or a name that is not looked up yet. The
	//     request of an association has no destination; its datagrams have. A
	//     refused request gets reply 2.
	// The request is valid during the call. Nil allows everything.
	Rule func(r *Request) error
	// Dialer returns the dialer for a request. For an association it is called once,
	// before any destination is known. If Dialer is nil or returns nil, the server
	// uses the host's own network.
	Dialer func(r *Request) Dialer
	// Open registers a request that the rule allows, before it is dialed. Kill ends
	// it without waiting, and may be called by any goroutine. An error refuses the
	// request: a full registry, for example. Nil = there is no registry.
	Open func(r *Request, kill func()) (Flow, error)
	// Relay copies between client and destination. Nil = the server does it itself.
	Relay Relay
	// Resolver looks up the names that UDP datagrams are sent to. Nil leaves them to
	// the Dialer's PacketConn, whose WriteTo then gets a wire.Addr with a name. With
	// a nil Dialer it is net.DefaultResolver.
	Resolver Resolver
	// ListenUDP opens the socket that clients send their datagrams to, on the
	// address that the client reached the server by. Nil is a host socket.
	ListenUDP func(local netip.Addr) (net.PacketConn, error)

	HandshakeTimeout time.Duration // from accept to the whole request; 0 = 10s
	DialTimeout      time.Duration // one outbound dial; 0 = 10s
	BindTimeout      time.Duration // how long BIND waits for its peer; 0 = 3m
	UDPTimeout       time.Duration // idle association; 0 = 5m
	// DrainTimeout is how long Serve, once its context has ended, lets UDP
	// associations, plain HTTP requests and connections finish. It does not wait for
	// the connections of Config.Relay.
	DrainTimeout time.Duration

	// Handshakes under way at once, of one client and in all. At the limit the
	// oldest is evicted. Only Open can bound dials and flows.
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

// patience is how long a handshake is safe from eviction.
const patience = time.Second

func (c Config) withDefaults() Config {
	c.Name = cmp.Or(c.Name, "socks")
	if c.Dialer == nil && c.Resolver == nil {
		c.Resolver = net.DefaultResolver
	}
	if c.Open == nil {
		c.Open = func(*Request, func()) (Flow, error) { return unregistered{}, nil }
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
