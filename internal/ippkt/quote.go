package ippkt

import "net/netip"

// Quote is the packet that an ICMP error is about, as its sender made it. The
// receiving kernel finds the socket by the addresses and the transport header.
type Quote struct {
	Src, Dst  netip.Addr // Src gets the error
	Proto     uint8
	TTL, TOS  uint8
	DF        bool
	Transport [UDPLen]byte // UDP header, or the first 8 bytes of an echo request
	Payload   [][]byte     // what followed, or its beginning
	Size      int          // bytes that followed
}

// QuoteUDP is the quote of a datagram with size bytes of payload.
func QuoteUDP(src, dst netip.AddrPort, size int, payload ...[]byte) Quote {
	q := Quote{
		Src: src.Addr(), Dst: dst.Addr(), Proto: ProtoUDP,
		TTL: DefaultTTL, Payload: payload, Size: size,
	}
	PutUDP(q.Transport[:], src.Port(), dst.Port(), size, 0)
	return q
}

// Port identifies the sender's socket: a UDP source port, or the identifier of
// an echo request.
func (q *Quote) Port() uint16 {
	if q.Proto == ProtoUDP {
		return be16(q.Transport[:])
	}
	return be16(q.Transport[4:])
}

// AsEchoReply returns the quote of an echo reply of the same length between the
// same hosts. An error about it tells the sender's kernel the path's MTU, as
// any error does, but the kernel has no socket to report it to.
func (q Quote) AsEchoReply() Quote {
	q.Proto, q.Transport = ProtoICMP, [UDPLen]byte{ICMP4EchoReply}
	if !q.Src.Is4() {
		q.Proto, q.Transport = ProtoICMPv6, [UDPLen]byte{ICMP6EchoReply}
	}
	q.Payload = nil
	return q
}

// Put writes the IP and transport headers of the quoted packet to b, which has
// room for MaxHeaders, and returns their length.
func (q *Quote) Put(b []byte) int {
	h := Header{Src: q.Src, Dst: q.Dst, Proto: q.Proto, TTL: q.TTL, TOS: q.TOS}
	if q.DF {
		h.Frag = FlagDF
	}
	n := h.Put(b, len(q.Transport)+q.Size)
	return n + copy(b[n:], q.Transport[:])
}

// MaxQuotedUDP is how much of a quote QuotedUDP needs at most.
const MaxQuotedUDP = maxIPv4Len + UDPLen

// QuotedUDP returns the destination of the datagram that an ICMP error quotes
// from its IP header on. It reports false if the error quotes something else.
func QuotedUDP(b []byte) (dst netip.AddrPort, ok bool) {
	if len(b) < IPv4Len {
		return dst, false
	}
	var a netip.Addr
	var proto uint8
	n := 0
	switch b[0] >> 4 {
	case 4:
		n, proto = int(b[0]&0xf)*4, b[9]
		a = netip.AddrFrom4([4]byte(b[16:20]))
		if n < IPv4Len || be16(b[6:])&0x1fff != 0 {
			return dst, false // not a first fragment
		}
	case 6:
		if len(b) < IPv6Len {
			return dst, false
		}
		n, proto = IPv6Len, b[6]
		a = netip.AddrFrom16([16]byte(b[24:40]))
	}
	if proto != ProtoUDP || len(b) < n+4 {
		return dst, false
	}
	return netip.AddrPortFrom(a, be16(b[n+2:])), true
}
