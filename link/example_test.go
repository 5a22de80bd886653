package link_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"netstackd/link"
	"netstackd/tun/tuntest"
)

// newStack returns a TCP/IP stack with one address on a device. Closing the stack
// closes the device.
func newStack(dev link.Device, address netip.Addr) (*stack.Stack, func(), error) {
	endpoint, err := link.New(dev, link.Config{})
	if err != nil {
		return nil, nil, err
	}
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol},
	})
	const nic = 1
	if err := s.CreateNIC(nic, endpoint); err != nil {
		return nil, nil, fmt.Errorf("create NIC: %v", err)
	}
	at := tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: tcpip.AddrFromSlice(address.AsSlice()).WithPrefix()}
	if err := s.AddProtocolAddress(nic, at, stack.AddressProperties{}); err != nil {
		return nil, nil, fmt.Errorf("add address: %v", err)
	}
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}})
	// Ingress ends first: Destroy waits for it with a lock that it needs.
	return s, func() { endpoint.Attach(nil); s.Destroy() }, nil
}

// Two stacks, joined by two devices in memory. In a program the device is a
// *tun.Device, and its other end is the kernel.
func Example() {
	server, client := netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("198.18.0.2")
	near, far := tuntest.Pair(tuntest.Config{}, tuntest.Config{})
	a, closeA, err := newStack(near, server)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer closeA()
	b, closeB, err := newStack(far, client)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer closeB()

	at := tcpip.FullAddress{Addr: tcpip.AddrFromSlice(server.AsSlice()), Port: 80}
	ln, err := gonet.ListenTCP(a, at, ipv4.ProtocolNumber)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ln.Close()
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
		fmt.Fprintln(c, "hello", host)
		c.Close()
	}()

	c, err := gonet.DialContextTCP(context.Background(), b, at, ipv4.ProtocolNumber)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	text, err := io.ReadAll(c)
	fmt.Printf("%s%v\n", text, err)
	// Output:
	// hello 198.18.0.2
	// <nil>
}
