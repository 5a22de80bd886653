package socks

import (
	"fmt"
	"net"
	"syscall"

	"netstackd/socks/wire"
)

// Client4 dials through a SOCKS4a server, for TCP. It is an Upstream. The server
// gets names and IPv6 addresses as text, in the field that SOCKS4a has for names.
type Client4 struct{ tcpClient }

// NewClient4 returns a client of the SOCKS4a server at host:port, dialed through
// next; nil = the host's own network. Of cfg.Auth the server gets the user; there
// is no password.
func NewClient4(address string, next ContextDialer, cfg ClientConfig) *Client4 {
	c := &Client4{tcpClient{upstream: newUpstream("socks4a", address, next, cfg)}}
	c.handshake = c.connect4
	return c
}

// connect4 asks for dst and returns what came after the answer.
func (c *Client4) connect4(conn net.Conn, dst wire.Addr) ([]byte, error) {
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
