package link

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// checksumValid verifies the checksums of a packet that the kernel has not
// vouched for: that of the IPv4 header, and that of TCP or UDP where the
// transport header follows at once. Fragments, extension headers and other
// protocols are left to their receivers, who verify for themselves.
func checksumValid(pkt *stack.PacketBuffer) bool {
	size := pkt.Data().Size()
	var proto tcpip.TransportProtocolNumber
	var src, dst tcpip.Address
	var hdrLen, end int
	switch pkt.NetworkProtocolNumber {
	case header.IPv4ProtocolNumber:
		b, ok := pkt.Data().PullUp(header.IPv4MinimumSize)
		if !ok {
			return false
		}
		hdrLen = int(header.IPv4(b).HeaderLength())
		if hdrLen < header.IPv4MinimumSize || hdrLen > size {
			return false
		}
		if b, ok = pkt.Data().PullUp(hdrLen); !ok {
			return false
		}
		h := header.IPv4(b)
		if !h.IsChecksumValid() {
			return false
		}
		if h.More() || h.FragmentOffset() != 0 {
			return true
		}
		proto, src, dst, end = h.TransportProtocol(), h.SourceAddress(), h.DestinationAddress(), int(h.TotalLength())
	case header.IPv6ProtocolNumber:
		b, ok := pkt.Data().PullUp(header.IPv6MinimumSize)
		if !ok {
			return false
		}
		h := header.IPv6(b)
		hdrLen = header.IPv6MinimumSize
		proto, src, dst, end = tcpip.TransportProtocolNumber(h.NextHeader()), h.SourceAddress(), h.DestinationAddress(), hdrLen+int(h.PayloadLength())
	}
	if end < hdrLen || end > size {
		return false
	}
	n := end - hdrLen
	switch proto {
	case header.TCPProtocolNumber:
		if n < header.TCPMinimumSize {
			return false
		}
	case header.UDPProtocolNumber:
		b, ok := pkt.Data().PullUp(hdrLen + header.UDPMinimumSize)
		if !ok || n < header.UDPMinimumSize {
			return false
		}
		u := header.UDP(b[hdrLen:])
		if u.Checksum() == 0 { // not used; IPv6 forbids it (RFC 8200 §8.1)
			return pkt.NetworkProtocolNumber == header.IPv4ProtocolNumber
		}
		// What the datagram's own length leaves out is not covered (RFC 768).
		if length := int(u.Length()); length < n {
			b, ok := pkt.Data().PullUp(hdrLen + length)
			return ok && length >= header.UDPMinimumSize &&
				checksum.Checksum(b[hdrLen:], header.PseudoHeaderChecksum(proto, src, dst, uint16(length))) == 0xffff
		}
	default:
		return true
	}
	pkt.Data().CapLength(end) // what follows is padding
	xsum := header.PseudoHeaderChecksum(proto, src, dst, uint16(n))
	return checksum.Combine(xsum, pkt.Data().ChecksumAtOffset(hdrLen)) == 0xffff
}
