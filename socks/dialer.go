package socks

import (
	"context"
	"net"
	"net/netip"

	"netstackd/socks/wire"
)

// ContextDialer opens connections. A *net.Dialer is one, and so is each client of
// this package, so that clients make chains.
type ContextDialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Dialer opens what a Server carries a request on with. Errors wrap the real
// syscall.Errno, a *net.DNSError or a timeout, because the reply to the client is
// made from them.
type Dialer interface {
	// DialContext opens a "tcp" connection or a connected "udp" socket to
	// address, host:port, whose host may be a name.
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
	// ListenPacket opens one unconnected UDP socket. Network is "udp", "udp4" or
	// "udp6"; address is the local one, "" for any.
	ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error)
	// Listen opens a listener for BIND. Address is the local one.
	Listen(ctx context.Context, network, address string) (net.Listener, error)
}

// Upstream is a Dialer that uses the network of another host, as the clients of
// this package do. A Server calls Bind for BIND, not Listen.
type Upstream interface {
	Dialer
	// Bind returns a listener on that host, for one connection from peer. An
	// unspecified address stands for any peer.
	Bind(ctx context.Context, peer wire.Addr) (net.Listener, error)
}

// hostDialer is the host's own network.
type hostDialer struct{}

func (hostDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}

func (hostDialer) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	var lc net.ListenConfig
	return lc.ListenPacket(ctx, network, address)
}

func (hostDialer) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	var lc net.ListenConfig
	return lc.Listen(ctx, network, address)
}

// listenHostUDP opens the socket towards the clients of an association.
func listenHostUDP(local netip.Addr) (net.PacketConn, error) {
	network := "udp4"
	if local.Is6() {
		network = "udp6"
	}
	return net.ListenUDP(network, net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, 0)))
}
