package socks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"netstackd/socks/wire"
)

var noDeadline time.Time

// writeTimeout bounds the write of a reply. Only a client that does not read
// reaches it.
const writeTimeout = 10 * time.Second

// write sends a reply.
func (c *client) write(b []byte) error {
	c.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := c.conn.Write(b)
	c.conn.SetWriteDeadline(noDeadline)
	return err
}

// describe returns the client's request.
func (c *client) describe(cmd wire.Command, dst wire.Addr) Request {
	return Request{Protocol: c.protocol, Command: cmd, Source: c.src, Dest: dst, User: c.user}
}

// open registers a request, if rule and registry allow it.
func (c *client) open(r *Request, kill func()) (Flow, error) {
	if err := c.judge(r); err != nil {
		c.stats.refused.Add(1)
		return nil, err
	}
	return c.register(r, kill)
}

// register registers a request that the rule allows.
func (c *client) register(r *Request, kill func()) (Flow, error) {
	f, err := c.cfg.Open(r, kill)
	if err != nil {
		c.stats.refused.Add(1)
		return nil, fmt.Errorf("%w: %w", ErrLimit, err)
	}
	return f, nil
}

// connect serves CONNECT: it dials, answers, and hands both ends to the relay.
func (c *client) connect(ctx context.Context, dst wire.Addr) {
	if err := dst.Check(); err != nil {
		c.stats.failed.Add(1)
		c.refuse("", err)
		return
	}
	r := c.describe(wire.Connect, dst)
	f, err := c.open(&r, func() { c.cancel(errKilled) })
	if err != nil {
		c.refuse(dst.String(), err)
		return
	}
	out, err := c.dial(ctx, f, &r)
	if err != nil {
		f.Close()
		if errors.Is(err, errGone) {
			c.log("client gone", dst.String(), nil)
			abort(c.conn)
			return
		}
		c.stats.failed.Add(1)
		c.refuse(dst.String(), err)
		return
	}
	var buf [64]byte
	// From here on the flow belongs to the relay, which takes over its kill too.
	if c.write(c.answer(buf[:0], wire.ReplySucceeded, addrPort(out.LocalAddr()), nil)) != nil {
		f.Close()
		abort(out)
		abort(c.conn)
		return
	}
	c.stats.connects.Add(1)
	c.log("connect", dst.String(), nil)
	c.relay.Join(f, withPrefix(c.conn, c.in.rest()), out)
}

// dial dials the destination until the client hangs up. The flow is then
// established.
func (c *client) dial(ctx context.Context, f Flow, r *Request) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.DialTimeout)
	defer cancel()
	unwatch := c.watch()
	out, err := c.dialer(r).DialContext(ctx, "tcp", r.Dest.String())
	unwatch()
	cause := context.Cause(ctx)
	switch {
	case err == nil && cause == nil:
		if f.Establish() {
			return out, nil
		}
		abort(out)
		return nil, errEvicted
	case err == nil:
		abort(out)
		err = cause
	case errors.Is(cause, errGone):
		return nil, cause
	}
	return nil, evicted(f, err)
}

// evicted returns err, or errEvicted for a flow that the registry has evicted.
func evicted(f Flow, err error) error {
	if f.Evicted() {
		return errEvicted
	}
	return err
}

// watchDelay is how long a dial may take before the client is watched: most
// are over by then, and cost no goroutine.
const watchDelay = 50 * time.Millisecond

// watch cancels the client's context when the client hangs up. What it sends
// meanwhile is early data and is kept. The caller must call stop before it
// uses the connection.
//
// A FIN without early data is a hang-up. After early data it is a half-close: the
// client has sent all that it has to send, and waits for the answer.
func (c *client) watch() (stop func()) {
	done := make(chan struct{})
	timer := time.AfterFunc(watchDelay, func() {
		defer close(done)
		for {
			err := c.in.more()
			switch {
			case err == nil:
				continue
			case errors.Is(err, os.ErrDeadlineExceeded), err == io.ErrShortBuffer:
			case err == io.EOF && len(c.in.bytes()) > 0:
			default:
				c.cancel(errGone)
			}
			return
		}
	})
	return func() {
		if timer.Stop() {
			return
		}
		c.conn.SetReadDeadline(aLongTimeAgo)
		<-done
		c.conn.SetReadDeadline(noDeadline)
	}
}
