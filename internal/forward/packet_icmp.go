package forward

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"

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
	code4Net            = 0
	code4Host           = 1
	code4Port           = 3
	code4FragNeeded     = 4
	code4Prohibited     = 13
	icmp6Unreachable    = 1
	icmp6PacketTooBig   = 2
	icmp6TimeExceeded   = 3
	icmp6ParamProblem   = 4
	icmp6EchoRequest    = 128
	icmp6EchoReply      = 129
	code6NoRoute        = 0
	code6Prohibited     = 1
	code6Address        = 3
	code6Port           = 4
	maxICMPError4       = 576  // RFC 1812 §4.3.2.3
	maxICMPError        = 1280 // RFC 4443 §2.4 (c)
	icmpHopLimitTransit = 0    // code of both "time exceeded" messages: in transit
)

// reason is why a packet could not be delivered, in terms that both versions
// of ICMP have.
type reason uint8

const (
	noRoute reason = iota
	hostUnreachable
	prohibited
	tooBig // info is the MTU
	ttlExceeded
)

// icmpError is an ICMP error to tell an application.
type icmpError struct {
	from      netip.Addr // the host that says so
	typ, code uint8
	info      uint32 // second word of the header: the MTU or a pointer
}

// errorFor returns the message for a reason, in the version of from.
func errorFor(from netip.Addr, why reason, info uint32) icmpError {
	e := icmpError{from: from, info: info}
	if from.Is4() {
		e.typ = icmp4Unreachable
		switch why {
		case noRoute:
			e.code = code4Net
		case hostUnreachable:
			e.code = code4Host
		case prohibited:
			e.code = code4Prohibited
		case tooBig:
			e.code = code4FragNeeded
		case ttlExceeded:
			e.typ, e.code = icmp4TimeExceeded, icmpHopLimitTransit
		}
		return e
	}
	e.typ = icmp6Unreachable
	switch why {
	case noRoute:
		e.code = code6NoRoute
	case hostUnreachable:
		e.code = code6Address
	case prohibited:
		e.code = code6Prohibited
	case tooBig:
		e.typ = icmp6PacketTooBig
	case ttlExceeded:
		e.typ, e.code = icmp6TimeExceeded, icmpHopLimitTransit
	}
	return e
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
func (o *outlet) icmp(hash uint32, e icmpError, q *quote) {
	if e.from.Is4() != q.src.Is4() || q.dst.Is4() != q.src.Is4() {
		return
	}
	w := o.writer()
	w.frag = append(w.frag, appendICMP(w.icmp[:0], &e, q))
	o.write(hash, link.Offload{}, w.frag)
	o.release(w)
}

// appendICMP appends the whole packet to b.
func appendICMP(b []byte, e *icmpError, q *quote) []byte {
	outer, limit := ipLen(q.src), maxICMPError
	proto := uint8(netstack.ProtoICMPv6)
	if q.src.Is4() {
		proto, limit = netstack.ProtoICMP, maxICMPError4
	}
	start := len(b)
	b = append(b, make([]byte, outer+icmpLen)...)
	b[start+outer], b[start+outer+1] = e.typ, e.code
	info := e.info
	if q.src.Is4() && e.typ == icmp4ParamProblem {
		info <<= 24 // the pointer is the first of the four bytes (RFC 792)
	}
	binary.BigEndian.PutUint32(b[start+outer+4:], info)

	inner := ipHeader{src: q.src, dst: q.dst, proto: q.proto, ttl: q.ttl, tos: q.tos}
	if q.df {
		inner.frag = flagDF
	}
	var ip [ipv6Len]byte
	b = append(b, ip[:inner.put(ip[:], len(q.transport)+q.size)]...)
	b = append(b, q.transport[:]...)
	for _, p := range q.payload {
		b = append(b, p[:min(len(p), start+limit-len(b))]...)
	}

	msg := b[start+outer:]
	hdr := ipHeader{src: e.from, dst: q.src, proto: proto, ttl: defaultTTL}
	hdr.put(b[start:], len(msg))
	var sum uint16
	if !q.src.Is4() {
		sum = pseudoSum(e.from, q.src, proto, len(msg))
	}
	binary.BigEndian.PutUint16(msg[2:], ^checksum.Checksum(msg, sum))
	return b
}
