package netstack

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"netstackd/internal/flow"
)

// DialContext connects through the stack, out of the TUN, to a literal address.
// The network is "tcp" or "udp", with or without a 4 or 6. Errors wrap the errno.
func (s *Stack) DialContext(ctx context.Context, _ *flow.Meta, network, address string) (net.Conn, error) {
	dial := s.dialTCP
	switch network {
	case "tcp", "tcp4", "tcp6":
	case "udp", "udp4", "udp6":
		dial = func(_ context.Context, to netip.AddrPort) (net.Conn, error) { return s.dialUDP(to) }
	default:
		return nil, net.UnknownNetworkError(network)
	}
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("netstack: %w", err)
	}
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	if !wants(network, to.Addr()) {
		return nil, &net.AddrError{Err: "not an address for " + network, Addr: address}
	}
	var c net.Conn
	if err = syscall.ENETUNREACH; s.Own(to.Addr()).IsValid() { // the stack has the family
		c, err = dial(ctx, to)
	}
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	return c, nil
}

func (s *Stack) dialTCP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	wq := new(waiter.Queue)
	ep, terr := s.gs.NewEndpoint(tcp.ProtocolNumber, netProto(to.Addr()), wq)
	if terr != nil {
		return nil, Errno(terr)
	}
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	terr = ep.Connect(fullAddress(to))
	if _, started := terr.(*tcpip.ErrConnectStarted); started {
		select {
		case <-ready:
			if terr = ep.LastError(); terr == nil && tcp.EndpointState(ep.State()) == tcp.StateError {
				terr = &tcpip.ErrConnectionRefused{}
			}
		case <-ctx.Done():
			ep.Close()
			return nil, ctx.Err() // of a deadline, a time-out for net.Error too
		}
	}
	if terr != nil {
		ep.Close()
		return nil, Errno(terr)
	}
	return s.newConn(ep, wq), nil
}

// wants reports whether a network's name, as the net package has them, allows
// the address's family.
func wants(network string, ip netip.Addr) bool {
	switch network[len(network)-1] {
	case '4':
		return ip.Is4()
	case '6':
		return ip.Is6()
	}
	return true
}

// localAddress returns the stack's address that a local host:port means.
func (s *Stack) localAddress(network, address string) (netip.AddrPort, error) {
	if address == "" {
		address = ":0"
	}
	host, portName, err := net.SplitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("netstack: address %q: %w", address, err)
	}
	port, err := strconv.ParseUint(portName, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("netstack: port %q: %w", portName, err)
	}
	ip := netip.IPv4Unspecified()
	if network[len(network)-1] == '6' {
		ip = netip.IPv6Unspecified()
	}
	if host != "" {
		if ip, err = netip.ParseAddr(host); err != nil {
			return netip.AddrPort{}, fmt.Errorf("netstack: address %q: %w", address, err)
		}
	}
	if ip.IsUnspecified() {
		ip = s.Own(ip)
	}
	return netip.AddrPortFrom(ip, uint16(port)), nil
}
