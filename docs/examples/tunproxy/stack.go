package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"netstackd/link"
	"netstackd/socks"
)

// A userStack is a gVisor stack on a device. It dials for a SOCKS server.
type userStack struct {
	stack *stack.Stack
	link  *link.Endpoint
}

var _ socks.Dialer = (*userStack)(nil)

func newStack(dev link.Device, address netip.Addr) (*userStack, error) {
	endpoint, err := link.New(dev, link.Config{})
	if err != nil {
		return nil, err
	}
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol},
	})
	const nic = 1
	if err := s.CreateNIC(nic, endpoint); err != nil {
		return nil, fmt.Errorf("create NIC: %v", err)
	}
	at := tcpip.ProtocolAddress{
		Protocol:          ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddrFromSlice(address.AsSlice()).WithPrefix(),
	}
	if err := s.AddProtocolAddress(nic, at, stack.AddressProperties{}); err != nil {
		return nil, fmt.Errorf("add address: %v", err)
	}
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}})
	return &userStack{stack: s, link: endpoint}, nil
}

// close ends ingress first: Destroy waits for it with a lock that it needs.
func (s *userStack) close() {
	s.link.Attach(nil)
	s.stack.Destroy()
}

// DialContext opens a TCP connection. The host looks up names. The errors of gonet
// hold no errno, so that a client always gets the reply of a general failure.
func (s *userStack) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if network != "tcp" {
		return nil, errors.ErrUnsupported
	}
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil, err
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", host)
	if err != nil {
		return nil, err
	}
	to := tcpip.FullAddress{Addr: tcpip.AddrFromSlice(ips[0].Unmap().AsSlice()), Port: uint16(port)}
	return gonet.DialContextTCP(ctx, s.stack, to, ipv4.ProtocolNumber)
}

// ListenPacket fails: this example carries TCP only.
func (s *userStack) ListenPacket(context.Context, string, string) (net.PacketConn, error) {
	return nil, errors.ErrUnsupported
}

// Listen fails: this example serves no BIND.
func (s *userStack) Listen(context.Context, string, string) (net.Listener, error) {
	return nil, errors.ErrUnsupported
}
