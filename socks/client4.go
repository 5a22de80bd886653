package socks

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"syscall"
	"time"

	"netstackd/internal/flow"
	"netstackd/socks/wire"
)

// Client4 dials through a SOCKS4a server, for TCP. It implements Dialer. The
// server gets names and IPv6 addresses as text, which SOCKS4a has the field for.
type Client4 struct {
	server string
	next   Dialer
	own    *flow.Meta // describes the flows to the server
	cfg    ClientConfig
	stages stages
}

// NewClient4 returns a client of the SOCKS4a server at host:port, dialed
// through next. Of cfg.Auth the server gets the user; there is no password.
func NewClient4(server string, next Dialer, cfg ClientConfig) *Client4 {
	cfg.HandshakeTimeout = cmp.Or(cfg.HandshakeTimeout, defaultHandshakeTimeout)
	c := &Client4{server: server, next: next, own: upstreamMeta(server), cfg: cfg}
	c.stages = stagesOf(c.String())
	return c
}

// String returns the server as a URL, without the user.
func (c *Client4) String() string { return "socks4a://" + c.server }

// DialContext connects to address, host:port, through the server. The error is
// an *OpError.
func (c *Client4) DialContext(ctx context.Context, _ *flow.Meta, network, address string) (net.Conn, error) {
	if isUDP(network) {
		return nil, c.fail(wire.Associate, address, errTCPOnly)
	}
	dst, err := destination(address)
	if err != nil {
		return nil, c.fail(wire.Connect, address, err)
	}
	conn, err := dialThrough(ctx, c.own, c.next, c.server, &c.stages, c.cfg.HandshakeTimeout, func(conn net.Conn) ([]byte, error) {
		return c.handshake(conn, dst)
	})
	if err != nil {
		return nil, c.fail(wire.Connect, address, err)
	}
	return conn, nil
}

// handshake asks for dst and returns what came behind the answer.
func (c *Client4) handshake(conn net.Conn, dst wire.Addr) ([]byte, error) {
	request, err := wire.Request4{Command: wire.Connect, Addr: dst, User: c.cfg.Auth.User}.Append(nil)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(request); err != nil {
		return nil, err
	}
	in := newReader(conn)
	defer in.free()
	switch r, err := message(in, wire.ParseResponse4); {
	case err != nil:
		return nil, err
	case r.Code == wire.NoIdent4, r.Code == wire.BadUser4:
		return nil, fmt.Errorf("%w: check user@ in the upstream's URL: %w", ErrAuth, syscall.EACCES)
	case r.Code != wire.Granted4:
		return nil, &ReplyError{wire.ReplyGeneralFailure}
	}
	return in.rest(), nil
}

// ListenPacket fails: SOCKS4a carries no UDP.
func (c *Client4) ListenPacket(context.Context, *flow.Meta, string, string) (net.PacketConn, error) {
	return nil, c.fail(wire.Associate, "", errTCPOnly)
}

// Listen fails: this client has no use for SOCKS4's BIND, which is IPv4 only.
func (c *Client4) Listen(context.Context, *flow.Meta, string, string) (net.Listener, error) {
	return nil, c.fail(wire.Bind, "", errTCPOnly)
}

func (c *Client4) fail(cmd wire.Command, address string, err error) error {
	return &OpError{Op: cmd.String(), Addr: address, Server: c.String(), Err: err}
}

var errTCPOnly = fmt.Errorf("this upstream makes TCP connections only: use a socks5:// upstream: %w", syscall.EOPNOTSUPP)

// dialThrough connects to a server and makes one handshake, both within
// timeout. Own describes the flow to it. Handshake returns what came behind the server's answer.
func dialThrough(ctx context.Context, own *flow.Meta, next Dialer, server string, stages *stages, timeout time.Duration,
	handshake func(net.Conn) ([]byte, error)) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	progress := progressOf(ctx)
	progress.set(&stages.connect)
	conn, err := next.DialContext(ctx, own, "tcp", server)
	if err != nil {
		return nil, &serverError{err}
	}
	progress.set(&stages.answer)
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(aLongTimeAgo) })
	early, err := handshake(conn)
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
