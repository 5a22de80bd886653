package hostnet

import (
	"context"
	"net"
	"net/netip"
	"syscall"
)

// localNetwork is the network to listen by on address. An IPv4 address is for IPv4
// only: package net takes 0.0.0.0 for all addresses of both families.
func localNetwork(network, address string) string {
	if a, err := netip.ParseAddrPort(address); err == nil && a.Addr().Is4() {
		return network + "4"
	}
	return network
}

// ListenLocal serves applications on address, which may reach the host by any
// interface. Connections inherit the listener's keep-alive, so that accepting
// one takes no system calls for it.
func ListenLocal(ctx context.Context, address string, keep net.KeepAliveConfig) (net.Listener, error) {
	l := net.ListenConfig{
		KeepAlive: -1, // not by package net, for each connection
		Control: func(_, _ string, c syscall.RawConn) error {
			return control(c, func(fd int) error { return keepAlive(fd, keep) })
		},
	}
	l.SetMultipathTCP(false) // splice(2) takes no others
	return l.Listen(ctx, localNetwork("tcp", address), address)
}

// ListenLocalPacket is ListenLocal for datagrams, with room for bursts.
func ListenLocalPacket(ctx context.Context, address string) (*net.UDPConn, error) {
	var l net.ListenConfig
	c, err := l.ListenPacket(ctx, localNetwork("udp", address), address)
	if err != nil {
		return nil, err
	}
	u := c.(*net.UDPConn)
	if err := enlargeBuffers(u); err != nil {
		u.Close()
		return nil, &net.OpError{Op: "listen", Net: "udp", Addr: u.LocalAddr(), Err: err}
	}
	return u, nil
}
