package netstack

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/header/parse"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"netstackd/internal/ippkt"
)

// A front stands before gVisor's IPv4 or IPv6 endpoint and answers for every
// address at once.
//
// gVisor can do that by itself (promiscuous mode and spoofing), but then keeps
// a state for each address in use and searches them all, under one lock, for
// each packet from an address that it does not hold: with ten thousand
// destinations that is most of a millisecond a packet. The front makes the
// answer a constant: ordinary packets go straight to the transport, and a
// route's local address is an object of its own that no table knows.
//
// Packets that need more (fragments, options, extension headers, ICMP for the
// stack's own addresses) take gVisor's own path, whose table then holds only
// the stack's addresses.
type front struct {
	stack.NetworkEndpoint
	stack.AddressableEndpoint

	nic        stack.NetworkInterface
	dispatcher stack.TransportDispatcher
	s          *Stack
}

// frontProtocol makes gVisor build its endpoints behind fronts.
type frontProtocol struct {
	stack.NetworkProtocol
	s *Stack
}

// behindFront returns a factory whose endpoints stand behind fronts.
func (s *Stack) behindFront(inner stack.NetworkProtocolFactory) stack.NetworkProtocolFactory {
	return func(gs *stack.Stack) stack.NetworkProtocol {
		return &frontProtocol{inner(gs), s}
	}
}

func (p *frontProtocol) NewEndpoint(nic stack.NetworkInterface, d stack.TransportDispatcher) stack.NetworkEndpoint {
	inner := p.NetworkProtocol.NewEndpoint(nic, d)
	return &front{inner, inner.(stack.AddressableEndpoint), nic, d, p.s}
}

// AcquireAssignedAddress implements stack.AddressableEndpoint: any address is
// assigned, if a temporary one will do.
func (f *front) AcquireAssignedAddress(addr tcpip.Address, allowTemp bool, peb stack.PrimaryEndpointBehavior, readOnly bool) stack.AddressEndpoint {
	if !allowTemp || f.s.isOwn(addr) {
		return f.AddressableEndpoint.AcquireAssignedAddress(addr, allowTemp, peb, readOnly)
	}
	return anyAddress(addr.WithPrefix())
}

// HandlePacket implements stack.NetworkEndpoint. pkt.Data starts with the IP
// header, whose version the link has checked.
func (f *front) HandlePacket(pkt *stack.PacketBuffer) {
	if pkt.NetworkProtocolNumber == header.IPv4ProtocolNumber {
		f.handleIPv4(pkt)
	} else {
		f.handleIPv6(pkt)
	}
}

func (f *front) handleIPv4(pkt *stack.PacketBuffer) {
	b, ok := pkt.Data().PullUp(header.IPv4MinimumSize)
	if !ok {
		f.s.counters.malformed.Add(1)
		return
	}
	h := header.IPv4(b)
	if h.HeaderLength() != header.IPv4MinimumSize || h.More() || h.FragmentOffset() != 0 {
		if f.forwardable(h.SourceAddress(), h.DestinationAddress()) {
			if h.More() || h.FragmentOffset() != 0 {
				pkt.RXChecksumValidated = false // the whole is not validated
			}
			f.NetworkEndpoint.HandlePacket(pkt)
		}
		return
	}
	if int(h.TotalLength()) > pkt.Data().Size() {
		f.s.counters.malformed.Add(1)
		return
	}
	if !pkt.RXChecksumValidated && !h.IsChecksumValid() {
		f.s.counters.malformed.Add(1)
		return
	}
	proto := h.TransportProtocol()
	src, dst := h.SourceAddress(), h.DestinationAddress()
	if !f.direct(proto, dst) {
		if f.forwardable(src, dst) {
			f.NetworkEndpoint.HandlePacket(pkt)
		}
		return
	}
	if !parse.IPv4(pkt) {
		f.s.counters.malformed.Add(1)
		return
	}
	f.transport(pkt, proto, src, dst)
}

func (f *front) handleIPv6(pkt *stack.PacketBuffer) {
	b, ok := pkt.Data().PullUp(header.IPv6MinimumSize)
	if !ok {
		f.s.counters.malformed.Add(1)
		return
	}
	h := header.IPv6(b)
	proto := tcpip.TransportProtocolNumber(h.NextHeader())
	src, dst := h.SourceAddress(), h.DestinationAddress()
	if !f.direct(proto, dst) {
		if f.forwardable(src, dst) {
			if fragment6(pkt, proto) {
				pkt.RXChecksumValidated = false // the whole is not validated
			}
			f.NetworkEndpoint.HandlePacket(pkt)
		}
		return
	}
	length := int(h.PayloadLength())
	if length > pkt.Data().Size()-header.IPv6MinimumSize {
		f.s.counters.malformed.Add(1)
		return
	}
	// Consume cannot fail: PullUp found the header.
	_, _ = pkt.NetworkHeader().Consume(header.IPv6MinimumSize)
	pkt.Data().CapLength(length)
	f.transport(pkt, proto, src, dst)
}

// fragment6 reports whether an IPv6 packet has a fragment header, after headers
// that may precede it (RFC 8200 §4.1). The first one is of the type next.
func fragment6(pkt *stack.PacketBuffer, next tcpip.TransportProtocolNumber) bool {
	at := header.IPv6MinimumSize
	for range 8 { // more than any sender has use for
		switch header.IPv6ExtensionHeaderIdentifier(next) {
		case header.IPv6FragmentExtHdrIdentifier:
			return true
		case header.IPv6HopByHopOptionsExtHdrIdentifier, header.IPv6RoutingExtHdrIdentifier, header.IPv6DestinationOptionsExtHdrIdentifier:
		default:
			return false
		}
		b, ok := pkt.Data().PullUp(at + 2)
		if !ok {
			return false
		}
		next = tcpip.TransportProtocolNumber(b[at])
		at += 8 + 8*int(b[at+1])
	}
	return true
}

// direct reports whether the packet needs nothing of gVisor's IP layer. What
// no transport takes does: gVisor answers it with protocol unreachable.
func (f *front) direct(proto tcpip.TransportProtocolNumber, dst tcpip.Address) bool {
	switch proto {
	case header.TCPProtocolNumber, header.UDPProtocolNumber:
		return true
	case header.ICMPv4ProtocolNumber, header.ICMPv6ProtocolNumber:
		return !f.s.isOwn(dst)
	}
	return false
}

// transport delivers a packet whose network header is parsed.
func (f *front) transport(pkt *stack.PacketBuffer, proto tcpip.TransportProtocolNumber, src, dst tcpip.Address) {
	if !f.forwardable(src, dst) {
		return
	}
	pkt.NICID = f.nic.ID()
	switch proto {
	case header.TCPProtocolNumber:
		if !parse.TCP(pkt) {
			f.s.counters.malformed.Add(1)
			return
		}
		if opens(pkt) {
			if tries := f.s.lingers(pkt); tries > 0 {
				f.postpone(pkt, tries)
				return
			}
		}
		f.dispatcher.DeliverTransportPacket(proto, pkt)
	case header.UDPProtocolNumber:
		f.udp(pkt, src, dst)
	case header.ICMPv4ProtocolNumber, header.ICMPv6ProtocolNumber:
		if _, ok := pkt.TransportHeader().Consume(ippkt.ICMPLen); !ok {
			f.s.counters.malformed.Add(1)
			return
		}
		pkt.TransportProtocolNumber = proto
		f.s.foreign(pkt, uint8(proto))
	}
}

// udp hands a datagram to its handler. Own addresses have sockets in the
// stack, which know nothing of trains: those are taken apart first.
func (f *front) udp(pkt *stack.PacketBuffer, src, dst tcpip.Address) {
	if !parse.UDP(pkt) || !udpChecksumValid(pkt, src, dst) {
		f.s.counters.malformed.Add(1)
		return
	}
	if !f.s.isOwn(dst) {
		if !f.s.foreign(pkt, ippkt.ProtoUDP) {
			f.portUnreachable(pkt)
		}
		return
	}
	if size := int(pkt.GSOOptions.MSS); size > 0 && pkt.Data().Size() > size {
		f.split(pkt, size)
		return
	}
	if f.dispatcher.DeliverTransportPacket(header.UDPProtocolNumber, pkt) != stack.TransportPacketHandled {
		f.portUnreachable(pkt)
	}
}

// forwardable reports whether a unicast flow may run between src and
// dst. What a router would not forward either is dropped: multicast,
// broadcast, loopback and unspecified addresses (RFC 1812 §5.3.7), and what
// claims to come from the stack itself.
func (f *front) forwardable(src, dst tcpip.Address) bool {
	if routable(src) && routable(dst) && !f.s.isBroadcast(dst) && !f.s.isBroadcast(src) && !f.s.isOwn(src) {
		return true
	}
	f.s.counters.unroutable.Add(1)
	return false
}

func routable(a tcpip.Address) bool {
	if a.Len() == header.IPv4AddressSize {
		b := a.As4()
		return b[0] != 0 && b[0] != 127 && b[0] < 224
	}
	ip := netip.AddrFrom16(a.As16())
	return !ip.IsMulticast() && !ip.IsLoopback() && !ip.IsUnspecified() && !ip.Is4In6()
}
