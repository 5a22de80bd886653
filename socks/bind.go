package socks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"netstackd/internal/flow"
)

// bind serves BIND: it listens, tells the client where, waits for one
// connection from DST.ADDR, tells the client of it, and hands both ends to the
// relay. While it waits the client is watched: when it goes, so does the
// listener.
func (c *client) bind(ctx context.Context, dst Addr) {
	var f *flow.Flow
	var err error
	if kill := func() { c.cancel(errKilled) }; dst.IP.IsUnspecified() {
		// Zeros stand for any peer, and not for an address to judge. The peer that
		// comes is judged.
		f, err = c.register(c.meta("tcp", dst), kill)
	} else {
		f, err = c.open(c.meta("tcp", dst), kill)
	}
	if err != nil {
		c.refuse(dst.String(), err)
		return
	}
	ln, bnd, want, err := c.listen(ctx, f.Meta(), dst)
	if err != nil {
		f.Close()
		c.stats.failed.Add(1)
		c.refuse(dst.String(), err)
		return
	}
	var buf [64]byte
	if err := c.write(c.answer(buf[:0], ReplySucceeded, bnd, nil)); err != nil {
		ln.Close()
		f.Close()
		abort(c.conn)
		return
	}
	peer, err := c.acceptOne(ctx, ln, want)
	if err == nil && !f.Establish() {
		abort(peer)
		err = errEvicted
	}
	if err == nil {
		err = c.write(c.answer(buf[:0], ReplySucceeded, addrPort(peer.RemoteAddr()), nil))
		if err != nil {
			abort(peer)
			err = errGone
		}
	}
	switch {
	case errors.Is(err, errGone):
		f.Close()
		abort(c.conn)
	case err != nil:
		f.Close()
		c.stats.failed.Add(1)
		c.refuse(dst.String(), evicted(f, err))
	default:
		c.stats.binds.Add(1)
		c.log("bind", dst.String(), nil)
		c.relay.Join(f, withPrefix(c.conn, c.in.rest()), peer)
	}
}

// listen opens the listener where the peer will find it, which is on the
// address that the peer is reached from, and gives that address. Want is the
// peer's own, not valid if anyone may come.
func (c *client) listen(ctx context.Context, m *flow.Meta, dst Addr) (ln net.Listener, bnd netip.AddrPort, want netip.Addr, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.DialTimeout)
	defer cancel()
	if up, ok := c.dialer.(*Client); ok { // the upstream does all of this
		ln, err = up.Listen(ctx, m, "tcp", "")
		if err != nil {
			return nil, bnd, want, err
		}
		return ln, addrPort(ln.Addr()), want, nil
	}
	if dst.IsName() || !dst.IP.IsUnspecified() {
		if err := dst.check(); err != nil {
			return nil, bnd, want, err
		}
		port := dst.Port
		if port == 0 {
			port = 9 // discard: nothing is sent, and 0 can't be connected to
		}
		// A connected UDP socket sends nothing, and knows both addresses.
		probe, err := c.dialer.DialContext(ctx, m, "udp", Addr{dst.Name, dst.IP, port}.String())
		if err != nil {
			return nil, bnd, want, err
		}
		bnd, want = addrPort(probe.LocalAddr()), addrPort(probe.RemoteAddr()).Addr()
		probe.Close()
	}
	local := bnd.Addr()
	if !local.IsValid() { // anyone may come: where the client came, others can
		local = c.local.Addr()
	}
	network := "tcp4"
	if local.Is6() {
		network = "tcp6"
	}
	ln, err = c.dialer.Listen(ctx, m, network, netip.AddrPortFrom(local, 0).String())
	if err != nil {
		return nil, bnd, want, err
	}
	return ln, addrPort(ln.Addr()), want, nil
}

// wanted reports whether the peer of a BIND may connect.
func (c *client) wanted(peer netip.AddrPort, want netip.Addr) bool {
	if want.IsValid() && peer.Addr() != want {
		return false
	}
	m := c.meta("tcp", AddrFrom(peer))
	return c.judge(&m) == nil
}

// acceptOne waits for one connection from want. Others are closed.
func (c *client) acceptOne(ctx context.Context, ln net.Listener, want netip.Addr) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.BindTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	defer ln.Close()
	unwatch := c.watch()
	defer unwatch()
	for {
		peer, err := ln.Accept()
		cause := context.Cause(ctx)
		switch {
		case err == nil && cause == nil:
			if c.wanted(addrPort(peer.RemoteAddr()), want) {
				return peer, nil
			}
			abort(peer)
			continue
		case err == nil:
			abort(peer)
		case cause == nil && is(err, syscall.ECONNABORTED):
			continue
		case cause == nil && transient(err):
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		case cause == nil:
			return nil, err
		}
		if errors.Is(cause, context.DeadlineExceeded) {
			return nil, fmt.Errorf("nobody connected: %w", syscall.ETIMEDOUT)
		}
		return nil, cause
	}
}
