package forward

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"netstackd/internal/netstack"
)

// icmpValid verifies the checksum of an ICMP message.
func icmpValid(p *netstack.Packet) bool {
	var sum uint16
	if p.Proto == netstack.ProtoICMPv6 {
		sum = pseudoSum(p.Src, p.Dst, netstack.ProtoICMPv6, len(p.Transport)+p.Buf.Data().Size())
	}
	sum = checksum.Checksum(p.Transport, sum)
	return checksum.Combine(sum, p.Buf.Data().Checksum()) == 0xffff
}

// isError reports whether p is an ICMP error: it quotes a packet.
func isError(p *netstack.Packet) bool {
	switch {
	case len(p.Transport) < icmpLen:
		return false
	case p.Proto == netstack.ProtoICMP:
		t := p.Transport[0]
		return t == icmp4Unreachable || t == icmp4TimeExceeded || t == icmp4ParamProblem
	case p.Proto == netstack.ProtoICMPv6:
		return p.Transport[0] < 128 // RFC 4443 §2.1
	}
	return false
}

// isPortUnreachable reports whether an ICMP error says that a port is closed.
func isPortUnreachable(p *netstack.Packet) bool {
	if p.Proto == netstack.ProtoICMP {
		return p.Transport[0] == icmp4Unreachable && p.Transport[1] == code4Port
	}
	return p.Transport[0] == icmp6Unreachable && p.Transport[1] == code6Port
}

// quotedUDP returns the destination of the datagram that an ICMP error quotes;
// ok is false if it quotes something else.
func quotedUDP(p *netstack.Packet) (dst netip.AddrPort, ok bool) {
	var b [60 + udpLen]byte // the longest IPv4 header
	n := 0
	var room [8][]byte
	for _, v := range p.AppendPayload(room[:0]) {
		n += copy(b[n:], v)
	}
	return parseQuotedUDP(b[:n])
}

func parseQuotedUDP(b []byte) (dst netip.AddrPort, ok bool) {
	if len(b) < ipv4Len {
		return dst, false
	}
	var a netip.Addr
	var proto uint8
	n := 0
	switch b[0] >> 4 {
	case 4:
		n, proto = int(b[0]&0xf)*4, b[9]
		a = netip.AddrFrom4([4]byte(b[16:20]))
		if n < ipv4Len || be16(b[6:])&0x1fff != 0 {
			return dst, false // not a first fragment
		}
	case 6:
		if len(b) < ipv6Len {
			return dst, false
		}
		n, proto = ipv6Len, b[6]
		a = netip.AddrFrom16([16]byte(b[24:40]))
	}
	if proto != netstack.ProtoUDP || len(b) < n+4 {
		return dst, false
	}
	return netip.AddrPortFrom(a, be16(b[n+2:])), true
}

// handleError takes the ICMP errors that an application's kernel sends about
// answers that we gave it, and reports whether p is one. They are not passed
// on: no socket could send them.
//
// A closed port makes the session a short one. It does not end it: an
// application that talks to one host only has a port that is closed to others.
func (u *UDP) handleError(p *netstack.Packet) bool {
	if !isError(p) {
		return false
	}
	dst, ok := quotedUDP(p)
	if !ok || dst.Addr() != p.Src {
		return false
	}
	s := u.table.get(dst)
	if s == nil || !isPortUnreachable(p) || !icmpValid(p) {
		return true
	}
	s.gone.Store(true)
	if u.idle.shorten(s) {
		u.notify()
	}
	return true
}
