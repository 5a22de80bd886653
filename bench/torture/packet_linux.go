package main

import (
	"encoding/binary"
	"net/netip"

	"netstackd/internal/ippkt"
)

// Packets are made by hand, so that they can be wrong.

const flagSYN = 2

// ipPacket puts an IP header before a payload, by the addresses' family.
func ipPacket(src, dst netip.Addr, proto byte, payload []byte) []byte {
	return ipv4Packet(src, dst, proto, 0, payload)
}

// ipv4Packet is ipPacket with the flags and the fragment offset of an IPv4
// header as they stand in it.
func ipv4Packet(src, dst netip.Addr, proto byte, frag uint16, payload []byte) []byte {
	h := ippkt.Header{Src: src, Dst: dst, Proto: proto, TTL: ippkt.DefaultTTL, Frag: frag}
	b := make([]byte, ippkt.HeaderLen(src), ippkt.HeaderLen(src)+len(payload))
	h.Put(b, len(payload))
	return append(b, payload...)
}

// tcpPacket is a segment; options must be of a multiple of four bytes.
func tcpPacket(src, dst netip.AddrPort, flags byte, seq uint32, options, payload []byte) []byte {
	b := make([]byte, 20, 20+len(options)+len(payload))
	binary.BigEndian.PutUint16(b, src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	binary.BigEndian.PutUint32(b[4:], seq)
	b[12], b[13] = byte(20+len(options))<<2, flags
	binary.BigEndian.PutUint16(b[14:], 65535)
	b = append(append(b, options...), payload...)
	sum := ippkt.PseudoSum(src.Addr(), dst.Addr(), ippkt.ProtoTCP, len(b))
	binary.BigEndian.PutUint16(b[16:], ^ippkt.Sum(b, sum))
	return ipPacket(src.Addr(), dst.Addr(), ippkt.ProtoTCP, b)
}

func udpPacket(src, dst netip.AddrPort, payload []byte) []byte {
	return ipPacket(src.Addr(), dst.Addr(), ippkt.ProtoUDP, udpDatagram(src, dst, payload))
}

func udpDatagram(src, dst netip.AddrPort, payload []byte) []byte {
	b := make([]byte, ippkt.UDPLen, ippkt.UDPLen+len(payload))
	ippkt.PutUDP(b, src.Port(), dst.Port(), len(payload), 0)
	b = append(b, payload...)
	check := ippkt.UDPChecksum(src.Addr(), dst.Addr(), len(b), [][]byte{b})
	binary.BigEndian.PutUint16(b[ippkt.UDPSumOffset:], check)
	return b
}

// icmpEcho is an echo request of the addresses' family.
func icmpEcho(src, dst netip.Addr, id, seq uint16, payload []byte) []byte {
	kind, proto := byte(ippkt.ICMP4EchoRequest), byte(ippkt.ProtoICMP)
	if src.Is6() {
		kind, proto = ippkt.ICMP6EchoRequest, ippkt.ProtoICMPv6
	}
	b := echoMessage(kind, id, seq, payload)
	ippkt.PutICMPChecksum(b, src, dst)
	return ipPacket(src, dst, proto, b)
}

func echoMessage(kind byte, id, seq uint16, payload []byte) []byte {
	b := make([]byte, ippkt.ICMPLen, ippkt.ICMPLen+len(payload))
	b[0] = kind
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[6:], seq)
	return append(b, payload...)
}

// fragment6 is a fragment header and what follows it (RFC 8200 §4.5); offset is
// in units of 8 bytes.
func fragment6(next byte, offset uint16, more bool, id uint32, payload []byte) []byte {
	b := make([]byte, ippkt.FragmentLen, ippkt.FragmentLen+len(payload))
	ippkt.PutFragmentHeader(b, next, int(offset)*8, more, id)
	return append(b, payload...)
}

// addr4 and addr6 are the i-th address of a network.
func addr4(a, b byte, i int) netip.Addr {
	return netip.AddrFrom4([4]byte{a, b, byte(i >> 8), byte(i)})
}

func addr6(first, second byte, i int) netip.Addr {
	return netip.AddrFrom16([16]byte{0: first, 1: second, 13: 2, 14: byte(i >> 8), 15: byte(i)})
}
