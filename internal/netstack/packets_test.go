package netstack_test

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

// The packets of these tests are made and read here by hand, so that they do
// not share a mistake with the stack.

const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58

	flagFIN = 1
	flagSYN = 2
	flagRST = 4
	flagACK = 16
)

var be = binary.BigEndian

// sum is the Internet checksum of parts, each of even length but the last.
func sum(parts ...[]byte) uint16 {
	var s uint32
	for _, b := range parts {
		for ; len(b) > 1; b = b[2:] {
			s += uint32(be.Uint16(b))
		}
		if len(b) == 1 {
			s += uint32(b[0]) << 8
		}
	}
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}

// pseudo is what transport checksums cover beside the payload.
func pseudo(src, dst netip.Addr, proto uint8, n int) []byte {
	b := append(src.AsSlice(), dst.AsSlice()...)
	return append(b, 0, proto, byte(n>>8), byte(n))
}

// ip4 makes an IPv4 packet; options are padded by the caller.
func ip4(src, dst netip.Addr, proto uint8, id, fragment uint16, options, payload []byte) []byte {
	n := 20 + len(options)
	b := make([]byte, n, n+len(payload))
	b[0], b[8], b[9] = 0x40|byte(n/4), 64, proto
	be.PutUint16(b[2:], uint16(n+len(payload)))
	be.PutUint16(b[4:], id)
	be.PutUint16(b[6:], fragment)
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	copy(b[20:], options)
	be.PutUint16(b[10:], sum(b))
	return append(b, payload...)
}

func ip6(src, dst netip.Addr, next uint8, payload []byte) []byte {
	b := make([]byte, 40, 40+len(payload))
	b[0], b[6], b[7] = 0x60, next, 64
	be.PutUint16(b[4:], uint16(len(payload)))
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return append(b, payload...)
}

func ip(src, dst netip.Addr, proto uint8, payload []byte) []byte {
	if src.Is4() {
		return ip4(src, dst, proto, 1, 0, nil, payload)
	}
	return ip6(src, dst, proto, payload)
}

func udpSegment(src, dst netip.AddrPort, payload []byte) []byte {
	b := make([]byte, 8, 8+len(payload))
	be.PutUint16(b, src.Port())
	be.PutUint16(b[2:], dst.Port())
	be.PutUint16(b[4:], uint16(8+len(payload)))
	b = append(b, payload...)
	c := sum(pseudo(src.Addr(), dst.Addr(), protoUDP, len(b)), b)
	if c == 0 {
		c = 0xffff
	}
	be.PutUint16(b[6:], c)
	return b
}

func udp(src, dst netip.AddrPort, payload []byte) []byte {
	return ip(src.Addr(), dst.Addr(), protoUDP, udpSegment(src, dst, payload))
}

func tcpSegment(src, dst netip.AddrPort, flags uint8, seq, ack uint32, payload []byte) []byte {
	b := make([]byte, 20, 20+len(payload))
	be.PutUint16(b, src.Port())
	be.PutUint16(b[2:], dst.Port())
	be.PutUint32(b[4:], seq)
	be.PutUint32(b[8:], ack)
	b[12], b[13] = 5<<4, flags
	be.PutUint16(b[14:], 65535)
	b = append(b, payload...)
	be.PutUint16(b[16:], sum(pseudo(src.Addr(), dst.Addr(), protoTCP, len(b)), b))
	return b
}

func tcp(src, dst netip.AddrPort, flags uint8, seq, ack uint32, payload []byte) []byte {
	return ip(src.Addr(), dst.Addr(), protoTCP, tcpSegment(src, dst, flags, seq, ack, payload))
}

func echoMessage(src, dst netip.Addr, id uint16, payload []byte) (uint8, []byte) {
	b := append([]byte{8, 0, 0, 0, byte(id >> 8), byte(id), 0, 1}, payload...)
	if src.Is4() {
		be.PutUint16(b[2:], sum(b))
		return protoICMP, b
	}
	b[0] = 128
	be.PutUint16(b[2:], sum(pseudo(src, dst, protoICMPv6, len(b)), b))
	return protoICMPv6, b
}

func echo(src, dst netip.Addr, id uint16, payload []byte) []byte {
	proto, b := echoMessage(src, dst, id, payload)
	return ip(src, dst, proto, b)
}

// parsed is a packet that the stack wrote, its checksums verified.
type parsed struct {
	src, dst netip.Addr
	proto    uint8
	payload  []byte // transport header and on
}

func parse(t testing.TB, b []byte) parsed {
	t.Helper()
	p, ok := tryParse(b)
	if !ok {
		t.Fatalf("not a packet: %x", b)
	}
	if !checksumRight(p) {
		t.Fatalf("wrong checksum: %x", b)
	}
	return p
}

func tryParse(b []byte) (p parsed, ok bool) {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		n := int(b[0]&15) * 4
		if n < 20 || len(b) < n || sum(b[:n]) != 0 || int(be.Uint16(b[2:])) != len(b) {
			return p, false
		}
		p = parsed{netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:])), b[9], b[n:]}
	case len(b) >= 40 && b[0]>>4 == 6:
		if int(be.Uint16(b[4:])) != len(b)-40 {
			return p, false
		}
		p = parsed{netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:])), b[6], b[40:]}
	default:
		return p, false
	}
	return p, true
}

func checksumRight(p parsed) bool {
	if p.proto == protoICMP {
		return sum(p.payload) == 0
	}
	return sum(pseudo(p.src, p.dst, p.proto, len(p.payload)), p.payload) == 0
}

// unreachable is a parsed ICMP error.
type unreachable struct {
	parsed
	code  uint8
	quote []byte
}

// parseUnreachable checks that b is a destination-unreachable error.
func parseUnreachable(t testing.TB, b []byte) unreachable {
	t.Helper()
	p := parse(t, b)
	want := map[uint8]uint8{protoICMP: 3, protoICMPv6: 1}
	if typ, ok := want[p.proto]; !ok || len(p.payload) < 8 || p.payload[0] != typ {
		t.Fatalf("not an unreachable error: %x", b)
	}
	return unreachable{p, p.payload[1], p.payload[8:]}
}
