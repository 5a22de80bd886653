package netstack

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

func netipAddr(a tcpip.Address) netip.Addr {
	if a.Len() == header.IPv4AddressSize {
		return netip.AddrFrom4(a.As4())
	}
	return netip.AddrFrom16(a.As16())
}

func tcpipAddr(a netip.Addr) tcpip.Address {
	if a.Is4() {
		return tcpip.AddrFrom4(a.As4())
	}
	return tcpip.AddrFrom16(a.As16())
}

func netProto(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}

// fullAddress names an end of a connection through the stack's one NIC.
func fullAddress(ap netip.AddrPort) tcpip.FullAddress {
	f := tcpip.FullAddress{NIC: nicID, Port: ap.Port()}
	if ap.Addr().IsValid() {
		f.Addr = tcpipAddr(ap.Addr().Unmap())
	}
	return f
}

func addrPort(f tcpip.FullAddress) netip.AddrPort {
	return netip.AddrPortFrom(netipAddr(f.Addr), f.Port)
}

// source and destination of a packet that arrived, as the transport has them:
// the stack's side is local.
func idSource(id stack.TransportEndpointID) netip.AddrPort {
	return netip.AddrPortFrom(netipAddr(id.RemoteAddress), id.RemotePort)
}

func idDest(id stack.TransportEndpointID) netip.AddrPort {
	return netip.AddrPortFrom(netipAddr(id.LocalAddress), id.LocalPort)
}
