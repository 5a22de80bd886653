package socks

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
)

// serve5 is the server's side of RFC 1928 up to the request.
func (c *client) serve5(ctx context.Context, stop func() bool) {
	c.answer = func(b []byte, r Reply, bnd netip.AddrPort, _ error) []byte {
		return Response{Reply: r, Addr: AddrFrom(bnd)}.Append(b)
	}
	g, err := message(c.in, ParseGreeting)
	if err != nil {
		c.malformed(err)
		return
	}
	var out [2]byte
	method := c.method(g)
	if _, err := c.conn.Write(AppendMethod(out[:0], method)); err != nil {
		c.malformed(err)
		return
	}
	switch method {
	case MethodUnacceptable:
		c.stats.badAuth.Add(1)
		c.log("no acceptable method", "", nil)
		closeAfterReply(c.conn)
		return
	case MethodUserPass:
		up, err := message(c.in, ParseUserPass)
		if err != nil {
			c.malformed(err)
			return
		}
		ok := c.authenticate(ctx, up)
		_, err = c.conn.Write(AppendAuthStatus(out[:0], ok))
		if !ok {
			closeAfterReply(c.conn)
			return
		}
		if err != nil {
			c.malformed(err)
			return
		}
	}
	req, err := message(c.in, ParseRequest)
	if errors.Is(err, ErrAddrType) {
		c.refuse("", err)
		return
	}
	if err != nil {
		c.malformed(err)
		return
	}
	c.request(ctx, stop, req)
}

// method chooses among those that the client offers. Without authentication a
// client that insists on sending a password may.
func (c *client) method(g Greeting) byte {
	switch {
	case c.cfg.Auth == nil && g.Offers(MethodNone):
		return MethodNone
	case g.Offers(MethodUserPass):
		return MethodUserPass
	}
	return MethodUnacceptable
}

// authenticate checks the credentials and remembers the user.
func (c *client) authenticate(ctx context.Context, up UserPass) bool {
	if c.cfg.Auth == nil {
		return true
	}
	// The time for a handshake also bounds the wait for a core to hash on.
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

// serve4 is the server's side of SOCKS4 and SOCKS4a. Neither can prove who the
// user is, so neither is served where that is asked for.
func (c *client) serve4(ctx context.Context, stop func() bool) {
	code := byte(rejected4)
	c.answer = func(b []byte, r Reply, bnd netip.AddrPort, _ error) []byte {
		if r == ReplySucceeded {
			return Response4{Code: granted4, Addr: AddrFrom(bnd)}.Append(b)
		}
		return Response4{Code: code, Addr: AddrFrom(bnd)}.Append(b)
	}
	req, err := message(c.in, ParseRequest4)
	if is(err, ErrName, ErrAuth) {
		c.refuse("", err)
		return
	}
	if err != nil {
		c.malformed(err)
		return
	}
	if c.cfg.Auth != nil {
		c.stats.badAuth.Add(1)
		code = badUser4
		c.refuse(req.Addr.String(), ErrAuth)
		return
	}
	if req.Command == Associate { // SOCKS5 only
		c.refuse(req.Addr.String(), errCommand)
		return
	}
	c.request(ctx, stop, Request{Command: req.Command, Addr: req.Addr})
}

var errCommand = fmt.Errorf("socks: unknown command: %w", errors.ErrUnsupported)

// request serves what the client asked for. The handshake is over: from here
// on each step has its own time.
func (c *client) request(ctx context.Context, stop func() bool, req Request) {
	if !stop() { // the deadline has been pulled, and stays
		abort(c.conn)
		return
	}
	c.place.Leave()
	c.conn.SetDeadline(noDeadline)
	switch req.Command {
	case Connect:
		c.connect(ctx, req.Addr)
	case Bind:
		c.bind(ctx, req.Addr)
	case Associate:
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
