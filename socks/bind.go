package socks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"netstackd/socks/wire"
)

// bind serves BIND: it listens, answers with the listener's address, waits for one
// connection from DST.ADDR, answers with the peer's address, and passes both ends to
// the relay. If the client hangs up, the listener is closed.
func (c *client) bind(ctx context.Context, dst wire.Addr) {
	r := c.describe(wire.Bind, dst)
	var f Flow
	var err error
	if kill := func() { c.cancel(errKilled) }; dst.IP.IsUnspecified() {
		// Zeros stand for any peer. The rule judges the peer that connects.
		f, err = c.register(&r, kill)
	} else {
		f, err = c.open(&r, kill)
	}
	if err != nil {
		c.refuse(dst.String(), err)
		return
	}
	ln, bnd, want, err := c.listen(ctx, c.dialer(&r), dst)
	if err != nil {
		f.Close()
		c.stats.failed.Add(1)
		c.refuse(dst.String(), err)
		return
	}
	var buf [64]byte
	if err := c.write(c.answer(buf[:0], wire.ReplySucceeded, bnd, nil)); err != nil {
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
		err = c.write(c.answer(buf[:0], wire.ReplySucceeded, addrPort(peer.RemoteAddr()), nil))
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

// listen opens the listener on the address that the peer is reached from, and
// returns that address. Want is the peer's address; not valid = any peer.
func (c *client) listen(ctx context.Context, d Dialer, dst wire.Addr) (ln net.Listener, bnd netip.AddrPort, want netip.Addr, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.DialTimeout)
	defer cancel()
	if up, ok := d.(Upstream); ok { // it does all of this
		ln, err = up.Bind(ctx, dst)
		if err != nil {
			return nil, bnd, want, err
		}
		return ln, addrPort(ln.Addr()), want, nil
	}
	var local netip.Addr
	if dst.IsName() || !dst.IP.IsUnspecified() {
		if err := dst.Check(); err != nil {
			return nil, bnd, want, err
		}
		if local, want, err = ends(ctx, d, dst); err != nil {
			return nil, bnd, want, err
		}
	} else {
		local = c.outward(ctx, d, dst.IP)
	}
	network := "tcp4"
	if local.Is6() {
		network = "tcp6"
	}
	ln, err = d.Listen(ctx, network, netip.AddrPortFrom(local, 0).String())
	if err != nil {
		return nil, bnd, want, err
	}
	return ln, addrPort(ln.Addr()), want, nil
}

// Addresses on the Internet, those of a.root-servers.net. Only the routes to them
// are used.
var (
	outside4 = netip.AddrFrom4([4]byte{198, 41, 0, 4})
	outside6 = netip.AddrFrom16([16]byte{0x20, 0x01, 0x05, 0x03, 0xba, 0x3e, 13: 2, 15: 0x30})
)

// outward returns the address by which other hosts reach the dialer's. For a
// client on another host it is the address of the route to the client. A client on
// this host may connect by loopback or by the TUN: the address is then that of the
// route to the Internet, preferably of the family of zeros. Without any route it is
// the address that the client connected to.
func (c *client) outward(ctx context.Context, d Dialer, zeros netip.Addr) netip.Addr {
	list := [...]netip.Addr{c.src.Addr(), outside4, outside6}
	if zeros.Is6() {
		list[1], list[2] = outside6, outside4
	}
	for _, to := range list {
		local, remote, err := ends(ctx, d, wire.Addr{IP: to})
		if err == nil && local != remote && !local.IsLoopback() && !local.IsLinkLocalUnicast() {
			return local
		}
	}
	return c.local.Addr()
}

// ends returns the addresses that a connection to an address would have. Nothing
// is sent: a connected UDP socket has both.
func ends(ctx context.Context, d Dialer, to wire.Addr) (local, remote netip.Addr, err error) {
	if to.Port == 0 {
		to.Port = 9 // discard: 0 can't be connected to
	}
	probe, err := d.DialContext(ctx, "udp", to.String())
	if err != nil {
		return local, remote, err
	}
	defer probe.Close()
	return addrPort(probe.LocalAddr()).Addr(), addrPort(probe.RemoteAddr()).Addr(), nil
}

// wanted reports whether the peer of a BIND may connect.
func (c *client) wanted(peer netip.AddrPort, want netip.Addr) bool {
	if want.IsValid() && peer.Addr() != want {
		return false
	}
	r := c.describe(wire.Bind, wire.AddrFrom(peer))
	return c.judge(&r) == nil
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
			return nil, fmt.Errorf("no peer connected: %w", syscall.ETIMEDOUT)
		}
		return nil, cause
	}
}
