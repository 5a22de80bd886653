package netstack

import (
	"encoding/binary"
	"net/netip"

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

// Message is the error for u that a host sends, in its version of ICMP.
func (u Unreachable) Message(from netip.Addr) ICMPError {
	if from.Is4() {
		return ICMPError{From: from, Type: uint8(header.ICMPv4DstUnreachable), Code: uint8(u.code4())}
	}
	return ICMPError{From: from, Type: uint8(header.ICMPv6DstUnreachable), Code: uint8(u.code6())}
}

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

// ICMPError is an ICMP message about a packet that was not delivered.
type ICMPError struct {
	From       netip.Addr // the host that says so
	Type, Code uint8      // of ICMP or ICMPv6, as From is
	Info       uint32     // the second word of the header: the MTU or a pointer
}

// MaxICMPError is how long a packet with an ICMP error may be (RFC 4443
// §2.4 (c)); with IPv4 it is less.
const (
	MaxICMPError  = header.IPv6MinimumMTU
	maxICMPError4 = 576 // RFC 1812 §4.3.2.3
)

// Append appends to b the whole packet that tells a host of the error. The
// quote, in any number of pieces, is the packet that the host had sent, from
// its IP header on; what is too long of it is left out. All addresses are of
// one family. Nothing else is allocated when b has room for MaxICMPError.
func (e *ICMPError) Append(b []byte, to netip.Addr, quote ...[]byte) []byte {
	const (
		ttl     = 64
		icmpLen = header.ICMPv4MinimumSize // in both families
	)
	outer, limit := header.IPv6MinimumSize, MaxICMPError
	if to.Is4() {
		outer, limit = header.IPv4MinimumSize, maxICMPError4
	}
	start := len(b)
	b = append(b, make([]byte, outer+icmpLen)...)
	for _, q := range quote {
		b = append(b, q[:min(len(q), start+limit-len(b))]...)
	}
	packet := b[start:]
	icmp := packet[outer:]
	icmp[0], icmp[1] = e.Type, e.Code
	binary.BigEndian.PutUint32(icmp[4:], e.Info)
	src, dst := tcpipAddr(e.From), tcpipAddr(to)
	var sum uint16
	if to.Is4() {
		ip := header.IPv4(packet)
		ip.Encode(&header.IPv4Fields{
			TotalLength: uint16(len(packet)),
			TTL:         ttl,
			Protocol:    ProtoICMP,
			SrcAddr:     src,
			DstAddr:     dst,
		})
		ip.SetChecksum(^ip.CalculateChecksum())
	} else {
		header.IPv6(packet).Encode(&header.IPv6Fields{
			PayloadLength:     uint16(len(icmp)),
			TransportProtocol: header.ICMPv6ProtocolNumber,
			HopLimit:          ttl,
			SrcAddr:           src,
			DstAddr:           dst,
		})
		sum = header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, src, dst, uint16(len(icmp)))
	}
	binary.BigEndian.PutUint16(icmp[2:], ^checksum.Checksum(icmp, sum))
	return b
}

// WriteUnreachable sends a destination-unreachable error from an address to
// the source of the quoted packet. The quote starts with an IP header of the
// same family and carries at least eight bytes more: Linux compares a TCP
// quote's sequence number before it believes the error. An error
// beyond ErrorLimit is not sent, and one that the device refuses is lost like any
// packet: each is counted.
func (s *Stack) WriteUnreachable(from netip.Addr, quote []byte, why Unreachable) {
	var to netip.Addr
	if from.Is4() {
		to = netipAddr(header.IPv4(quote).SourceAddress())
	} else {
		to = netipAddr(header.IPv6(quote).SourceAddress())
	}
	transport := quote[len(quote)-quotedTransport:]
	port := binary.BigEndian.Uint16(transport) // the source's, but for ICMP
	if !s.errors.Allow(netip.AddrPortFrom(to, port)) {
		return
	}
	e := why.Message(from)
	// Any queue will do that is always the same for this flow.
	_ = s.link.WriteRaw(uint32(port), link.Offload{}, [][]byte{e.Append(nil, to, quote)})
}

// ErrorLimit returns the bound on ICMP errors, for all that writes them into
// the stack's link.
func (s *Stack) ErrorLimit() *ErrorLimit { return s.errors }
