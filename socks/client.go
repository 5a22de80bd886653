package socks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"netstackd/internal/flow"
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

// Client dials through a SOCKS5 server. It implements Dialer, and dials the
// server through another one, so that clients make chains.
type Client struct {
	server string
	next   Dialer
	own    *flow.Meta // describes the flows to the server
	cfg    ClientConfig
	stages stages
	pipe   atomic.Int32 // pipeUnknown, pipeWorks or pipeFails
}

// What a Client knows of its server's way with pipelined handshakes.
const (
	pipeUnknown = iota
	pipeWorks
	pipeFails
)

// pipePatience is how long a server that was never seen to take a pipelined
// handshake may be silent before it is asked again, one message at a time.
const pipePatience = time.Second

// NewClient returns a client of the SOCKS5 server at host:port, dialed through
// next.
func NewClient(server string, next Dialer, cfg ClientConfig) *Client {
	cfg.HandshakeTimeout = cmp.Or(cfg.HandshakeTimeout, defaultHandshakeTimeout)
	c := &Client{server: server, next: next, own: upstreamMeta(server), cfg: cfg}
	c.stages = stagesOf(c.String())
	if cfg.Serial {
		c.pipe.Store(pipeFails)
	}
	return c
}

// upstreamMeta describes a connection to an upstream. That is netstackd's own
// flow and not the application's: rules on destinations do not apply to it.
func upstreamMeta(server string) *flow.Meta {
	m := &flow.Meta{Inbound: flow.Internal, Network: "tcp"}
	if a, err := wire.ParseHostPort(server); err == nil {
		m.Dest = a.AddrPort()
		m.Name = a.Name
	}
	return m
}

// String returns the server as a URL, without credentials.
func (c *Client) String() string { return "socks5://" + c.server }

// DialContext connects to address, host:port, through the server. Names are
// left to the server. Network is "tcp", or "udp" for a connected socket over
// an association of its own. The error is an *OpError.
func (c *Client) DialContext(ctx context.Context, _ *flow.Meta, network, address string) (net.Conn, error) {
	if isUDP(network) {
		return c.dialUDP(ctx, address)
	}
	dst, err := destination(address)
	if err != nil {
		return nil, c.fail(wire.Connect, address, err)
	}
	conn, in, _, err := c.request(ctx, wire.Request{Command: wire.Connect, Addr: dst})
	if err != nil {
		return nil, c.fail(wire.Connect, address, err)
	}
	return withPrefix(conn, in), nil
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

func (c *Client) fail(cmd wire.Command, address string, err error) error {
	return &OpError{Op: cmd.String(), Addr: address, Server: c.String(), Err: err}
}

// errPipeline means that the handshake may fare better without pipelining.
var errPipeline = errors.New("socks: server does not take a pipelined handshake")

// request makes a connection on which the server has granted req. Early is
// what the server sent behind its reply.
func (c *Client) request(ctx context.Context, req wire.Request) (conn net.Conn, early []byte, bnd wire.Addr, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.HandshakeTimeout)
	defer cancel()
	known := c.pipe.Load()
	if known != pipeFails {
		conn, early, bnd, err = c.attempt(ctx, req, true, known == pipeUnknown)
		if !errors.Is(err, errPipeline) || ctx.Err() != nil {
			return conn, early, bnd, err
		}
	}
	start := time.Now()
	conn, early, bnd, err = c.attempt(ctx, req, false, false)
	if known == pipeUnknown && time.Since(start) < pipePatience && answered(err) {
		// The same request, asked in turn, was answered in a time in which the
		// pipelined one was not.
		c.pipe.CompareAndSwap(pipeUnknown, pipeFails)
	}
	return conn, early, bnd, err
}

// answered reports whether err, the result of a request, is the server's word.
func answered(err error) bool {
	var reply *ReplyError
	var status *HTTPError
	return err == nil || errors.As(err, &reply) || errors.As(err, &status)
}

// attempt dials the server and makes one handshake. With probe, a server that
// is silent for too long fails with errPipeline.
func (c *Client) attempt(ctx context.Context, req wire.Request, pipelined, probe bool) (net.Conn, []byte, wire.Addr, error) {
	progress := progressOf(ctx)
	progress.set(&c.stages.connect)
	conn, err := c.next.DialContext(ctx, c.own, "tcp", c.server)
	if err != nil {
		return nil, nil, wire.Addr{}, &serverError{err}
	}
	progress.set(&c.stages.answer)
	if probe {
		conn.SetReadDeadline(time.Now().Add(pipePatience))
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(aLongTimeAgo) })
	in := newReader(conn)
	defer in.free()
	var bnd wire.Addr
	if pipelined {
		bnd, err = c.pipelined(in, req)
	} else {
		bnd, err = c.serial(in, req)
	}
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if pipelined && answered(err) {
		c.pipe.CompareAndSwap(pipeUnknown, pipeWorks)
	}
	if pipelined && errors.Is(err, ErrMethod) {
		c.pipe.Store(pipeFails)
	}
	if err != nil {
		abort(conn)
		return nil, nil, wire.Addr{}, c.cause(ctx, err, pipelined)
	}
	conn.SetDeadline(noDeadline)
	return conn, in.rest(), bnd, nil
}

// cause says why a handshake failed.
func (c *Client) cause(ctx context.Context, err error, pipelined bool) error {
	if answered(err) || errors.Is(err, ErrAuth) {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", ErrSilent, context.Cause(ctx))
	}
	if pipelined {
		return fmt.Errorf("%w: %w", errPipeline, err)
	}
	return hungUp(err)
}

func (c *Client) hasAuth() bool { return c.cfg.Auth != wire.UserPass{} }

// pipelined sends everything in one write, so that the reply is there one
// round trip later.
func (c *Client) pipelined(in *reader, req wire.Request) (wire.Addr, error) {
	buf := handshakeBuffers.Get().(*[handshakeSize]byte)
	defer func() {
		clear(buf[:])
		handshakeBuffers.Put(buf)
	}()
	want := byte(wire.MethodNone)
	b := buf[:0]
	var err error
	if c.hasAuth() {
		want = wire.MethodUserPass
		b = wire.Greeting{Methods: []byte{want}}.Append(b)
		if b, err = c.cfg.Auth.Append(b); err != nil {
			return wire.Addr{}, err
		}
	} else {
		b = wire.Greeting{Methods: []byte{want}}.Append(b)
	}
	if b, err = req.Append(b); err != nil {
		return wire.Addr{}, err
	}
	if _, err = in.conn.Write(b); err != nil {
		return wire.Addr{}, err
	}
	method, err := message(in, wire.ParseMethod)
	if err != nil {
		return wire.Addr{}, err
	}
	if method != want {
		return wire.Addr{}, fmt.Errorf("%w: server chose %#02x", ErrMethod, method)
	}
	if want == wire.MethodUserPass {
		if err := authStatus(in); err != nil {
			return wire.Addr{}, err
		}
	}
	return response(in)
}

// serial sends each message when the server has answered the one before.
func (c *Client) serial(in *reader, req wire.Request) (wire.Addr, error) {
	methods := []byte{wire.MethodNone, wire.MethodUserPass}
	if !c.hasAuth() {
		methods = methods[:1]
	}
	var small [300]byte
	if _, err := in.conn.Write(wire.Greeting{Methods: methods}.Append(small[:0])); err != nil {
		return wire.Addr{}, err
	}
	method, err := message(in, wire.ParseMethod)
	if err != nil {
		return wire.Addr{}, err
	}
	switch {
	case method == wire.MethodNone:
	case method == wire.MethodUserPass && c.hasAuth():
		b, err := c.cfg.Auth.Append(nil)
		if err != nil {
			return wire.Addr{}, err
		}
		if _, err = in.conn.Write(b); err != nil {
			return wire.Addr{}, err
		}
		if err := authStatus(in); err != nil {
			return wire.Addr{}, err
		}
	case c.hasAuth():
		return wire.Addr{}, fmt.Errorf("%w: server chose %#02x", ErrMethod, method)
	default:
		return wire.Addr{}, fmt.Errorf("%w: put user:password@ in the upstream's URL", ErrMethod)
	}
	b, err := req.Append(small[:0])
	if err != nil {
		return wire.Addr{}, err
	}
	if _, err = in.conn.Write(b); err != nil {
		return wire.Addr{}, err
	}
	return response(in)
}

func authStatus(in *reader) error {
	ok, err := message(in, wire.ParseAuthStatus)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%w: check user:password@ in the upstream's URL: %w", ErrAuth, syscall.EACCES)
	}
	return nil
}

// response reads the server's answer and returns its BND.
func response(in *reader) (wire.Addr, error) {
	r, err := message(in, wire.ParseResponse)
	// What address type a refusal carries does not matter.
	if (err == nil || errors.Is(err, wire.ErrAddrType)) && r.Reply != wire.ReplySucceeded {
		return wire.Addr{}, &ReplyError{r.Reply}
	}
	return r.Addr, err
}
