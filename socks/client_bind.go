package socks

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"netstackd/socks/wire"
)

// Listen is Bind for any peer. Network and address are not used: the server
// chooses.
func (c *Client) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	return c.Bind(ctx, wire.Addr{IP: unspecified4})
}

// Bind asks the server to accept one connection from peer. The listener's Addr is
// the server's; Accept returns one connection and then fails. An unspecified
// address, or none, stands for any peer.
func (c *Client) Bind(ctx context.Context, peer wire.Addr) (net.Listener, error) {
	if peer.IsName() && peer.Name == "" {
		peer.IP = unspecified4
	}
	conn, early, bnd, err := c.request(ctx, wire.Request{Command: wire.Bind, Addr: peer})
	if err != nil {
		return nil, c.fail(wire.Bind, peer.String(), err)
	}
	if bnd.IP.IsValid() && bnd.IP.IsUnspecified() {
		bnd = c.relayAddr(conn, bnd)
	}
	return &bindListener{client: c, conn: withPrefix(conn, early), addr: bnd}, nil
}

// bindListener waits for the second reply of a BIND.
type bindListener struct {
	client *Client
	conn   net.Conn
	addr   wire.Addr
	mu     sync.Mutex
	taken  bool // conn belongs to an Accept, or is closed
}

// Accept waits for the connection. Its RemoteAddr is the peer's.
func (l *bindListener) Accept() (net.Conn, error) {
	l.mu.Lock()
	taken := l.taken
	l.mu.Unlock()
	if taken {
		return nil, fmt.Errorf("socks: bind: %w", net.ErrClosed)
	}
	in := newReader(l.conn)
	defer in.free()
	peer, err := response(in)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.taken {
		return nil, fmt.Errorf("socks: bind: %w", net.ErrClosed)
	}
	l.taken = true
	if err != nil {
		l.conn.Close()
		return nil, l.client.fail(wire.Bind, "", err)
	}
	return &bound{Conn: withPrefix(l.conn, in.rest()), peer: peer.AddrPort()}, nil
}

// Close stops waiting. It does not touch a connection that was accepted.
func (l *bindListener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.taken {
		return nil
	}
	l.taken = true
	return l.conn.Close()
}

// Addr returns where the server listens.
func (l *bindListener) Addr() net.Addr {
	if l.addr.IsName() {
		return l.addr
	}
	return net.TCPAddrFromAddrPort(l.addr.AddrPort())
}

// bound is an accepted connection.
type bound struct {
	net.Conn
	peer netip.AddrPort
}

// RemoteAddr returns the peer's address as the server saw it.
func (b *bound) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(b.peer) }

// CloseWrite half-closes the connection.
func (b *bound) CloseWrite() error { return closeWrite(b.Conn) }

// Unwrap gives the connection below, for a relay that wants to splice.
func (b *bound) Unwrap() ([]byte, net.Conn) {
	if p, ok := b.Conn.(*prefixed); ok {
		return p.Unwrap()
	}
	return nil, b.Conn
}
