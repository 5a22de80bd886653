package ippkt_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"netstackd/internal/ippkt"
)

// ends are the addresses of a packet in each family.
var ends = []struct {
	name     string
	src, dst netip.Addr
	ipLen    int
}{
	{"ipv4", netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("10.0.0.1"), 20},
	{"ipv6", netip.MustParseAddr("2001:db8::7"), netip.MustParseAddr("fd00::1"), 40},
}

// An error quotes as much as the RFCs allow, from any number of pieces.
func TestICMPErrorAppend(t *testing.T) {
	quote := bytes.Repeat([]byte("quoted packet "), 200)
	for i, longest := range []int{576, 1280} { // RFC 1812 §4.3.2.3, RFC 4443 §2.4 (c)
		e := ends[i]
		headers := e.ipLen + ippkt.ICMPLen
		msg := ippkt.AdminProhibited.Message(e.src)
		msg.Info = 0x01020304
		for _, cut := range []int{0, 1, 33, 1000} {
			for _, n := range []int{28, 101, longest - headers, len(quote)} {
				b := msg.Append([]byte("before"), e.dst, quote[:min(cut, n)], nil, quote[min(cut, n):n])
				b, ok := bytes.CutPrefix(b, []byte("before"))
				if want := quote[:min(n, longest-headers)]; !ok || !bytes.Equal(b[headers:], want) {
					t.Fatalf("%s: %d bytes cut at %d: %x", e.name, n, cut, b)
				}
				h := ippkt.Header{Src: e.src, Dst: e.dst, Proto: ippkt.ProtoICMP, TTL: 64}
				want, code := byte(ippkt.ICMP4Unreachable), byte(13)
				var sum uint16
				if !e.src.Is4() {
					h.Proto, want, code = ippkt.ProtoICMPv6, ippkt.ICMP6Unreachable, 1
					sum = ippkt.PseudoSum(e.src, e.dst, ippkt.ProtoICMPv6, len(b)-e.ipLen)
				}
				var ip [ippkt.IPv6Len]byte
				if h.Put(ip[:], len(b)-e.ipLen); !bytes.Equal(ip[:e.ipLen], b[:e.ipLen]) {
					t.Errorf("%s: IP header %x, want %x", e.name, b[:e.ipLen], ip[:e.ipLen])
				}
				if m := b[e.ipLen:]; m[0] != want || m[1] != code || ippkt.Sum(m, sum) != 0xffff || !bytes.Equal(m[4:8], []byte{1, 2, 3, 4}) {
					t.Errorf("%s: ICMP header %x", e.name, m[:8])
				}
			}
		}
		room := make([]byte, 0, ippkt.MaxICMPError)
		pieces := [][]byte{quote[:40], quote[40:]}
		if n := testing.AllocsPerRun(100, func() { msg.Append(room, e.dst, pieces...) }); n != 0 {
			t.Errorf("%s: %v allocations", e.name, n)
		}
	}
}

// A quote is the packet that was sent, and QuotedUDP reads it back.
func TestQuote(t *testing.T) {
	for _, e := range ends {
		src, dst := netip.AddrPortFrom(e.src, 4000), netip.AddrPortFrom(e.dst, 53)
		q := ippkt.QuoteUDP(src, dst, 100)
		q.DF = true
		var b [ippkt.MaxHeaders]byte
		n := q.Put(b[:])
		if got, ok := ippkt.QuotedUDP(b[:n]); !ok || got != dst {
			t.Errorf("%s: %v, %v; want %v", e.name, got, ok, dst)
		}
		if q.Port() != 4000 {
			t.Errorf("%s: port %d", e.name, q.Port())
		}
		if length := binary.BigEndian.Uint16(b[n-ippkt.UDPLen+4:]); n != e.ipLen+ippkt.UDPLen || length != 108 {
			t.Errorf("%s: %d bytes of headers, UDP length %d", e.name, n, length)
		}
		reply := q.AsEchoReply()
		n = reply.Put(b[:])
		if _, ok := ippkt.QuotedUDP(b[:n]); ok || ippkt.IsEchoRequest(reply.Proto, b[e.ipLen:n]) {
			t.Errorf("%s: an echo reply is taken for something else: %x", e.name, b[:n])
		}
	}
}

func FuzzQuotedUDP(f *testing.F) {
	for _, e := range ends {
		q := ippkt.QuoteUDP(netip.AddrPortFrom(e.src, 1), netip.AddrPortFrom(e.dst, 2), 1)
		var b [ippkt.MaxHeaders]byte
		f.Add(b[:q.Put(b[:])])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if dst, ok := ippkt.QuotedUDP(b); ok && !dst.Addr().IsValid() {
			t.Errorf("%v of %x", dst, b)
		}
	})
}
