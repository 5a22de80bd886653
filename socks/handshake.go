package socks

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"netstackd/socks/wire"
)

// serve5 is the server's side of RFC 1928 up to the request.
func (c *client) serve5(ctx context.Context, stop func() bool) {
	c.protocol = SOCKS5
	c.answer = func(b []byte, r wire.Reply, bnd netip.AddrPort, _ error) []byte {
		return wire.Response{Reply: r, Addr: wire.AddrFrom(bnd)}.Append(b)
	}
	g, err := message(c.in, wire.ParseGreeting)
	if err != nil {
		c.malformed(err)
		return
	}
	var out [2]byte
	method := c.method(g)
	if _, err := c.conn.Write(wire.AppendMethod(out[:0], method)); err != nil {
		c.malformed(err)
		return
	}
	switch method {
	case wire.MethodUnacceptable:
		c.stats.badAuth.Add(1)
		c.log("no acceptable method", "", nil)
		closeAfterReply(c.conn)
		return
	case wire.MethodUserPass:
		up, err := message(c.in, wire.ParseUserPass)
		if err != nil {
			c.malformed(err)
			return
		}
		ok := c.authenticate(ctx, up)
		_, err = c.conn.Write(wire.AppendAuthStatus(out[:0], ok))
		if !ok {
			closeAfterReply(c.conn)
			return
		}
		if err != nil {
			c.malformed(err)
			return
		}
	}
	req, err := message(c.in, wire.ParseRequest)
	if errors.Is(err, wire.ErrAddrType) {
		c.refuse("", err)
		return
	}
	if err != nil {
		c.malformed(err)
		return
	}
	c.request(ctx, stop, req)
}

// method chooses among the methods that the client offers. Without authentication
// it still accepts a client that offers only a password.
func (c *client) method(g wire.Greeting) byte {
	switch {
	case c.cfg.Auth == nil && g.Offers(wire.MethodNone):
		return wire.MethodNone
	case g.Offers(wire.MethodUserPass):
		return wire.MethodUserPass
	}
	return wire.MethodUnacceptable
}

// authenticate checks the credentials and remembers the user.
func (c *client) authenticate(ctx context.Context, up wire.UserPass) bool {
	if c.cfg.Auth == nil {
		return true
	}
	// The limit also covers the wait for a core that computes the hash.
	ctx, cancel := context.WithTimeout(ctx, c.cfg.HandshakeTimeout)
	defer cancel()
	if !c.cfg.Auth.VerifyFrom(ctx, c.src.Addr(), up) {
		c.stats.badAuth.Add(1)
		c.log("wrong credentials", "", nil)
		return false
	}
	c.user = up.User
	return true
}

// serve4 is the server's side of SOCKS4 and SOCKS4a. They have no password, so they
// are refused where authentication is required.
func (c *client) serve4(ctx context.Context, stop func() bool) {
	c.protocol = SOCKS4
	code := byte(wire.Rejected4)
	c.answer = func(b []byte, r wire.Reply, bnd netip.AddrPort, _ error) []byte {
		if r == wire.ReplySucceeded {
			return wire.Response4{Code: wire.Granted4, Addr: wire.AddrFrom(bnd)}.Append(b)
		}
		return wire.Response4{Code: code, Addr: wire.AddrFrom(bnd)}.Append(b)
	}
	req, err := message(c.in, wire.ParseRequest4)
	if is(err, wire.ErrName, wire.ErrUser) {
		c.refuse("", err)
		return
	}
	if err != nil {
		c.malformed(err)
		return
	}
	if c.cfg.Auth != nil {
		c.stats.badAuth.Add(1)
		code = wire.BadUser4
		c.refuse(req.Addr.String(), ErrAuth)
		return
	}
	if req.Command == wire.Associate { // SOCKS5 only
		c.refuse(req.Addr.String(), errCommand)
		return
	}
	c.request(ctx, stop, wire.Request{Command: req.Command, Addr: req.Addr})
}

var errCommand = fmt.Errorf("socks: unknown command: %w", errors.ErrUnsupported)

// request serves a request. The deadline of the handshake ends here.
func (c *client) request(ctx context.Context, stop func() bool, req wire.Request) {
	if !stop() { // the context has ended, and with it the connection
		abort(c.conn)
		return
	}
	c.place.Leave()
	c.conn.SetDeadline(noDeadline)
	switch req.Command {
	case wire.Connect:
		c.connect(ctx, req.Addr)
	case wire.Bind:
		c.bind(ctx, req.Addr)
	case wire.Associate:
		c.associate(ctx, req.Addr)
	default:
		c.refuse(req.Addr.String(), errCommand)
	}
}

// refuse answers with the reply for err and closes the connection so that the
// answer arrives.
func (c *client) refuse(dst string, err error) {
	c.log("refused", dst, err)
	var buf [64]byte
	c.write(c.answer(buf[:0], ReplyFor(err), netip.AddrPort{}, err))
	closeAfterReply(c.conn)
}
