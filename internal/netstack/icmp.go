package netstack

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"netstackd/link"
)

// Unreachable is why a destination cannot be reached.
type Unreachable uint8

// The reasons, each with its code in RFC 792 and RFC 4443.
const (
	NetUnreachable Unreachable = iota
	HostUnreachable
	PortUnreachable
	AdminProhibited
)

func (u Unreachable) code4() header.ICMPv4Code {
	switch u {
	case NetUnreachable:
		return header.ICMPv4NetUnreachable
	case PortUnreachable:
		return header.ICMPv4PortUnreachable
	case AdminProhibited:
		return header.ICMPv4AdminProhibited
	}
	return header.ICMPv4HostUnreachable
}

func (u Unreachable) code6() header.ICMPv6Code {
	switch u {
	case NetUnreachable:
		return header.ICMPv6NetworkUnreachable
	case PortUnreachable:
		return header.ICMPv6PortUnreachable
	case AdminProhibited:
		return header.ICMPv6Prohibited
	}
	return header.ICMPv6AddressUnreachable
}

// WriteUnreachable sends a destination-unreachable error from an address to
// the source of the quoted packet. The quote starts with an IP header of the
// same family and carries at least eight bytes more: Linux compares a TCP
// quote's sequence number before it believes the error.
func (s *Stack) WriteUnreachable(from netip.Addr, quote []byte, why Unreachable) {
	const ttl = 64
	icmpLen := header.ICMPv4MinimumSize + len(quote) // both families: 8
	if from.Is4() {
		b := make([]byte, header.IPv4MinimumSize+icmpLen)
		ip := header.IPv4(b)
		ip.Encode(&header.IPv4Fields{
			TotalLength: uint16(len(b)),
			TTL:         ttl,
			Protocol:    uint8(header.ICMPv4ProtocolNumber),
			SrcAddr:     tcpipAddr(from),
			DstAddr:     header.IPv4(quote).SourceAddress(),
		})
		ip.SetChecksum(^ip.CalculateChecksum())
		ic := header.ICMPv4(b[header.IPv4MinimumSize:])
		ic.SetType(header.ICMPv4DstUnreachable)
		ic.SetCode(why.code4())
		copy(ic[header.ICMPv4MinimumSize:], quote)
		ic.SetChecksum(^checksum.Checksum(ic, 0))
		s.writeError(b, quote)
		return
	}
	b := make([]byte, header.IPv6MinimumSize+icmpLen)
	src, dst := tcpipAddr(from), header.IPv6(quote).SourceAddress()
	header.IPv6(b).Encode(&header.IPv6Fields{
		PayloadLength:     uint16(icmpLen),
		TransportProtocol: header.ICMPv6ProtocolNumber,
		HopLimit:          ttl,
		SrcAddr:           src,
		DstAddr:           dst,
	})
	ic := header.ICMPv6(b[header.IPv6MinimumSize:])
	ic.SetType(header.ICMPv6DstUnreachable)
	ic.SetCode(why.code6())
	copy(ic[header.ICMPv6MinimumSize:], quote)
	ic.SetChecksum(icmpv6Checksum(ic, src, dst))
	s.writeError(b, quote)
}

func icmpv6Checksum(b []byte, src, dst tcpip.Address) uint16 {
	xsum := header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, src, dst, uint16(len(b)))
	return ^checksum.Checksum(b, xsum)
}

// writeError sends an ICMP error on the queue of the flow that it is about. One
// that the device refuses is lost like any packet, and counted by the link.
func (s *Stack) writeError(b, quote []byte) {
	var h uint32
	for _, c := range quote[len(quote)-quotedTransport : len(quote)-quotedTransport+2] {
		h = h<<8 | uint32(c) // the source port: any choice that is steady will do
	}
	_ = s.link.WriteRaw(h, link.Offload{}, [][]byte{b})
}
