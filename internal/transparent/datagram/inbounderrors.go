package datagram

import (
	"net/netip"

	"netstackd/internal/ippkt"
	"netstackd/internal/netstack"
)

// icmpValid verifies the checksum of an ICMP message.
func icmpValid(p *netstack.Packet) bool {
	var sum uint16
	if p.Proto == ippkt.ProtoICMPv6 {
		sum = ippkt.PseudoSum(p.Src, p.Dst, ippkt.ProtoICMPv6, len(p.Transport)+p.Buf.Data().Size())
	}
	sum = ippkt.Sum(p.Transport, sum)
	return ippkt.Add(sum, p.Buf.Data().Checksum()) == 0xffff
}

// quotedUDP returns the destination of the datagram that an ICMP error quotes;
// ok is false if it quotes something else.
func quotedUDP(p *netstack.Packet) (dst netip.AddrPort, ok bool) {
	var b [ippkt.MaxQuotedUDP]byte
	n := 0
	var room [8][]byte
	for _, v := range p.AppendPayload(room[:0]) {
		n += copy(b[n:], v)
	}
	return ippkt.QuotedUDP(b[:n])
}

// handleError takes the ICMP errors that an application's kernel sends about
// answers that we gave it, and reports whether p is one. They are not passed
// on: no socket could send them.
//
// A closed port gives the session the short timeout. It does not end it: the port
// of an application that is connected to one host is closed to all others.
func (u *UDP) handleError(p *netstack.Packet) bool {
	if !ippkt.IsError(p.Proto, p.Transport) {
		return false
	}
	dst, ok := quotedUDP(p)
	if !ok || dst.Addr() != p.Src {
		return false
	}
	s := u.table.get(dst)
	if s == nil || !ippkt.IsPortUnreachable(p.Proto, p.Transport) || !icmpValid(p) {
		return true
	}
	s.gone.Store(true)
	if u.idle.shorten(s) {
		u.notify()
	}
	return true
}
