package forward

import (
	"net/netip"

	"netstackd/internal/netstack"
	"netstackd/link"
)

// ICMP and ICMPv6 types and codes (IANA registries of those names).
const (
	icmp4EchoReply      = 0
	icmp4Unreachable    = 3
	icmp4EchoRequest    = 8
	icmp4TimeExceeded   = 11
	icmp4ParamProblem   = 12
	code4Port           = 3
	code4FragNeeded     = 4
	icmp6Unreachable    = 1
	icmp6PacketTooBig   = 2
	icmp6TimeExceeded   = 3
	icmp6ParamProblem   = 4
	icmp6EchoRequest    = 128
	icmp6EchoReply      = 129
	code6Port           = 4
	icmpHopLimitTransit = 0 // code of both "time exceeded" messages: in transit
)

// tooBig is the message that a packet is too long for its path, of this MTU.
func tooBig(from netip.Addr, mtu uint32) netstack.ICMPError {
	if from.Is4() {
		return netstack.ICMPError{From: from, Type: icmp4Unreachable, Code: code4FragNeeded, Info: mtu}
	}
	return netstack.ICMPError{From: from, Type: icmp6PacketTooBig, Info: mtu}
}

// ttlExceeded is the message of a router that a packet has come too far.
func ttlExceeded(from netip.Addr) netstack.ICMPError {
	if from.Is4() {
		return netstack.ICMPError{From: from, Type: icmp4TimeExceeded, Code: icmpHopLimitTransit}
	}
	return netstack.ICMPError{From: from, Type: icmp6TimeExceeded, Code: icmpHopLimitTransit}
}

// quote is the packet that an ICMP error is about, as its sender made it. The
// receiving kernel finds the socket by the addresses and the transport header.
type quote struct {
	src, dst  netip.Addr // src is the application
	proto     uint8
	ttl, tos  uint8
	df        bool
	transport [udpLen]byte // UDP header, or the first 8 bytes of an echo request
	payload   [][]byte     // what followed, or its beginning
	size      int          // bytes that followed
}

// port is what tells the sender's sockets apart: a UDP source port, or the
// identifier of an echo request.
func (q *quote) port() uint16 {
	if q.proto == netstack.ProtoUDP {
		return be16(q.transport[:])
	}
	return be16(q.transport[4:])
}

// udpQuote is the quote of a datagram of size bytes.
func udpQuote(src, dst netip.AddrPort, size int, payload ...[]byte) quote {
	q := quote{
		src: src.Addr(), dst: dst.Addr(), proto: netstack.ProtoUDP,
		ttl: defaultTTL, payload: payload, size: size,
	}
	putUDP(q.transport[:], src.Port(), dst.Port(), size, 0)
	return q
}

// quoteOf is the quote of a packet as it came.
func quoteOf(p *netstack.Packet) quote {
	return quote{
		src: p.Src, dst: p.Dst, proto: p.Proto, ttl: p.TTL, tos: p.TOS, df: p.DF,
		transport: [udpLen]byte(p.Transport), payload: p.AppendPayload(nil), size: p.Buf.Data().Size(),
	}
}

// unsocketed returns the quote of an echo reply of the same length between the
// same hosts. An error about that one tells the sender's kernel the path's MTU,
// as any does, but belongs to no socket that it would be reported to.
func (q quote) unsocketed() quote {
	q.proto, q.transport = netstack.ProtoICMP, [udpLen]byte{icmp4EchoReply}
	if !q.src.Is4() {
		q.proto, q.transport = netstack.ProtoICMPv6, [udpLen]byte{icmp6EchoReply}
	}
	q.payload = nil
	return q
}

// icmp writes an ICMP error to the quoted packet's sender.
func (o *outlet) icmp(hash uint32, e netstack.ICMPError, q *quote) {
	if e.From.Is4() != q.src.Is4() || q.dst.Is4() != q.src.Is4() {
		return
	}
	w := o.writer()
	ip := ipHeader{src: q.src, dst: q.dst, proto: q.proto, ttl: q.ttl, tos: q.tos}
	if q.df {
		ip.frag = flagDF
	}
	n := ip.put(w.hdr[:], len(q.transport)+q.size)
	n += copy(w.hdr[n:], q.transport[:])
	w.part = append(append(w.part, w.hdr[:n]), q.payload...)
	w.frag = append(w.frag, e.Append(w.icmp[:0], q.src, w.part...))
	o.write(hash, link.Offload{}, w.frag)
	o.release(w)
}
