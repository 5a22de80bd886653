package socks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"netstackd/socks/wire"
)

// ClientConfig sets what a Client does. The zero value is right for a server
// without authentication.
type ClientConfig struct {
	Auth             wire.UserPass // sent when not zero
	HandshakeTimeout time.Duration // one dial with its handshake; 0 = 10s
	// Serial keeps the client from sending the request before the server has
	// chosen a method. It finds out by itself when a server can't take that.
	Serial bool
}

// upstream is what the clients have in common: their server.
type upstream struct {
	url     string // without credentials
	address string // host:port
	next    ContextDialer
	cfg     ClientConfig
	stages  stages
}

func newUpstream(scheme, address string, next ContextDialer, cfg ClientConfig) upstream {
	if next == nil {
		next = hostDialer{}
	}
	cfg.HandshakeTimeout = cmp.Or(cfg.HandshakeTimeout, defaultHandshakeTimeout)
	url := scheme + "://" + address
	return upstream{url: url, address: address, next: next, cfg: cfg, stages: stagesOf(url)}
}

// String returns the server as a URL, without credentials.
func (u *upstream) String() string { return u.url }

// connect opens a connection to the server.
func (u *upstream) connect(ctx context.Context) (net.Conn, error) {
	progress := progressOf(ctx)
	progress.set(&u.stages.connect)
	conn, err := u.next.DialContext(ctx, "tcp", u.address)
	if err != nil {
		return nil, &serverError{err}
	}
	progress.set(&u.stages.answer)
	return conn, nil
}

// destination parses and checks an address to dial.
func destination(address string) (wire.Addr, error) {
	dst, err := wire.ParseHostPort(address)
	if err != nil {
		return wire.Addr{}, err
	}
	return dst, dst.Check()
}

func isUDP(network string) bool { return len(network) >= 3 && network[:3] == "udp" }

func (u *upstream) fail(cmd wire.Command, address string, err error) error {
	return &OpError{Op: cmd.String(), Addr: address, Server: u.String(), Err: err}
}

// answered reports whether err, the result of a request, is the server's word.
func answered(err error) bool {
	var reply *ReplyError
	var status *HTTPError
	return err == nil || errors.As(err, &reply) || errors.As(err, &status)
}

// tcpClient is a client of a server that makes TCP connections only, with one
// request and one answer each.
type tcpClient struct {
	upstream
	// handshake asks for dst and returns what came after the answer.
	handshake func(conn net.Conn, dst wire.Addr) (early []byte, err error)
}

var errTCPOnly = fmt.Errorf("this upstream makes TCP connections only: use a socks5:// upstream: %w", syscall.EOPNOTSUPP)

// DialContext connects to address, host:port, through the server. Names are left
// to the server. The error is an *OpError.
func (c *tcpClient) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if isUDP(network) {
		return nil, c.fail(wire.Associate, address, errTCPOnly)
	}
	dst, err := destination(address)
	if err != nil {
		return nil, c.fail(wire.Connect, address, err)
	}
	conn, err := c.dial(ctx, dst)
	if err != nil {
		return nil, c.fail(wire.Connect, address, err)
	}
	return conn, nil
}

// dial connects to the server and makes one handshake, both within the timeout.
func (c *tcpClient) dial(ctx context.Context, dst wire.Addr) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.HandshakeTimeout)
	defer cancel()
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(aLongTimeAgo) })
	early, err := c.handshake(conn, dst)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		abort(conn)
		if answered(err) {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w: %w", ErrSilent, context.Cause(ctx))
		}
		return nil, hungUp(err)
	}
	conn.SetDeadline(noDeadline)
	return withPrefix(conn, early), nil
}

// ListenPacket fails: the protocol carries no UDP.
func (c *tcpClient) ListenPacket(context.Context, string, string) (net.PacketConn, error) {
	return nil, c.fail(wire.Associate, "", errTCPOnly)
}

// Listen fails, as Bind does.
func (c *tcpClient) Listen(ctx context.Context, _, _ string) (net.Listener, error) {
	return c.Bind(ctx, wire.Addr{})
}

// Bind fails: HTTP has no such request, and that of SOCKS4 is for IPv4 only.
func (c *tcpClient) Bind(context.Context, wire.Addr) (net.Listener, error) {
	return nil, c.fail(wire.Bind, "", errTCPOnly)
}
