package netstack

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"netstackd/internal/ippkt"
)

// udpChecksumValid verifies a parsed datagram unless the link vouched for it.
func udpChecksumValid(pkt *stack.PacketBuffer, src, dst tcpip.Address) bool {
	if pkt.RXChecksumValidated {
		return true
	}
	u := header.UDP(pkt.TransportHeader().Slice())
	if u.Checksum() == 0 {
		return src.Len() == header.IPv4AddressSize
	}
	xsum := header.PseudoHeaderChecksum(header.UDPProtocolNumber, src, dst, u.Length())
	xsum = checksum.Combine(xsum, pkt.Data().Checksum())
	return checksum.Checksum(u, xsum) == 0xffff
}

// split delivers a train of datagrams to a socket of the stack one by one.
func (f *front) split(pkt *stack.PacketBuffer, size int) {
	payload := stack.BufferSince(pkt.NetworkHeader())
	defer payload.Release()
	ipLen := len(pkt.NetworkHeader().Slice())
	hdrLen := ipLen + header.UDPMinimumSize
	total := int(payload.Size())
	for off := hdrLen; off < total; off += size {
		n := min(size, total-off)
		b := payload.Clone()
		b.Truncate(int64(off + n))
		b.TrimFront(int64(off))
		one := stack.NewPacketBuffer(stack.PacketBufferOptions{
			ReserveHeaderBytes: hdrLen,
			Payload:            b,
		})
		u := header.UDP(one.TransportHeader().Push(header.UDPMinimumSize))
		copy(u, pkt.TransportHeader().Slice())
		u.SetLength(uint16(n + header.UDPMinimumSize))
		copy(one.NetworkHeader().Push(ipLen), pkt.NetworkHeader().Slice())
		one.NetworkProtocolNumber = pkt.NetworkProtocolNumber
		one.TransportProtocolNumber = header.UDPProtocolNumber
		one.NICID = pkt.NICID
		one.RXChecksumValidated = true
		done := f.dispatcher.DeliverTransportPacket(header.UDPProtocolNumber, one)
		one.DecRef()
		if done != stack.TransportPacketHandled {
			f.portUnreachable(pkt)
			return
		}
	}
}

// portUnreachable answers a parsed datagram as a host without such a port does.
func (f *front) portUnreachable(pkt *stack.PacketBuffer) {
	quote := packetQuote(pkt)
	f.s.WriteUnreachable(netipAddr(pkt.Network().DestinationAddress()), quote, ippkt.PortUnreachable)
}

// packetQuote copies what an ICMP error quotes of a parsed packet: its IP
// header and the first eight bytes after (RFC 792).
func packetQuote(pkt *stack.PacketBuffer) []byte {
	q := make([]byte, 0, header.IPv6MinimumSize+quotedTransport)
	q = append(q, pkt.NetworkHeader().Slice()...)
	t := pkt.TransportHeader().Slice()
	return append(q, t[:min(len(t), quotedTransport)]...)
}

const quotedTransport = 8

// foreign hands a parsed UDP or ICMP packet to the handler and reports whether
// it was taken.
func (s *Stack) foreign(pkt *stack.PacketBuffer, proto uint8) bool {
	if s.cfg.Packets == nil {
		return false
	}
	p := s.packets.Get().(*Packet)
	defer s.releasePacket(p)
	*p = Packet{
		Proto:     proto,
		Network:   pkt.NetworkHeader().Slice(),
		Transport: pkt.TransportHeader().Slice(),
		Buf:       pkt,
	}
	if pkt.NetworkProtocolNumber == header.IPv4ProtocolNumber {
		h := header.IPv4(p.Network)
		p.Src, p.Dst = netipAddr(h.SourceAddress()), netipAddr(h.DestinationAddress())
		p.TTL = h.TTL()
		p.TOS, _ = h.TOS()
		p.DF = h.Flags()&header.IPv4FlagDontFragment != 0
	} else {
		h := header.IPv6(p.Network)
		p.Src, p.Dst = netipAddr(h.SourceAddress()), netipAddr(h.DestinationAddress())
		p.TTL = h.HopLimit()
		p.TOS, _ = h.TOS()
		p.DF = true
	}
	if proto == ippkt.ProtoUDP && int(pkt.GSOOptions.MSS) < pkt.Data().Size() {
		p.GSOSize = pkt.GSOOptions.MSS
	}
	p.Hash = flowHash(p.Src, uint16(p.Transport[0])<<8|uint16(p.Transport[1]))
	return s.cfg.Packets.HandlePacket(p)
}

func (s *Stack) releasePacket(p *Packet) {
	*p = Packet{}
	s.packets.Put(p)
}

// flowHash spreads application sources over the device's queues (FNV-1a).
func flowHash(a netip.Addr, port uint16) uint32 {
	h := uint32(2166136261)
	b := a.As16()
	for _, c := range b {
		h = (h ^ uint32(c)) * 16777619
	}
	h = (h ^ uint32(port>>8)) * 16777619
	h = (h ^ uint32(port&0xff)) * 16777619
	return h ^ h>>16
}
