package socks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"netstackd/socks/wire"
)

// Client dials through a SOCKS5 server. It is an Upstream.
type Client struct {
	upstream
	pipe atomic.Int32 // pipeUnknown, pipeWorks or pipeFails
}

// What a Client knows about its server and pipelined handshakes.
const (
	pipeUnknown = iota
	pipeWorks
	pipeFails
)

// pipePatience is how long a Client waits for the answer to its first pipelined
// handshake. After it the Client tries again, one message at a time.
const pipePatience = time.Second

// NewClient returns a client of the SOCKS5 server at host:port, dialed through
// next; nil = the host's own network.
func NewClient(address string, next ContextDialer, cfg ClientConfig) *Client {
	c := &Client{upstream: newUpstream("socks5", address, next, cfg)}
	if cfg.Serial {
		c.pipe.Store(pipeFails)
	}
	return c
}

// DialContext connects to address, host:port, through the server. Names are
// left to the server. Network is "tcp", or "udp" for a connected socket over
// an association of its own. The error is an *OpError.
func (c *Client) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
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

// errPipeline means that the handshake may succeed without pipelining.
var errPipeline = errors.New("socks: server does not take a pipelined handshake")

// request makes a connection on which the server has granted req. Early is
// what the server sent after its reply.
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
		// The server answered in a time in which it did not answer the pipelined
		// handshake.
		c.pipe.CompareAndSwap(pipeUnknown, pipeFails)
	}
	return conn, early, bnd, err
}

// attempt dials the server and makes one handshake. With probe, a server that
// is silent for too long fails with errPipeline.
func (c *Client) attempt(ctx context.Context, req wire.Request, pipelined, probe bool) (net.Conn, []byte, wire.Addr, error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, nil, wire.Addr{}, err
	}
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

// pipelined sends all messages in one write: the reply takes one round trip.
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

// serial sends each message after the answer to the previous one.
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
