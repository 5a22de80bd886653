package main

import (
	"encoding/binary"
	"net/netip"
)

// Packets are made by hand, so that they can be wrong.

const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoFrag6  = 44
	protoICMPv6 = 58
)

const flagSYN = 2

// checksum is that of RFC 1071, over all parts, each of even length but the last.
func checksum(parts ...[]byte) uint16 {
	var sum uint32
	for _, b := range parts {
		for ; len(b) > 1; b = b[2:] {
			sum += uint32(b[0])<<8 | uint32(b[1])
		}
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// ipPacket puts an IP header before a payload, by the addresses' family.
func ipPacket(src, dst netip.Addr, proto byte, payload []byte) []byte {
	if src.Is6() {
		return ipv6Packet(src, dst, proto, payload)
	}
	return ipv4Packet(src, dst, proto, 0, payload)
}

// ipv4Packet has flags and fragment offset as they stand in the header.
func ipv4Packet(src, dst netip.Addr, proto byte, frag uint16, payload []byte) []byte {
	b := make([]byte, 20, 20+len(payload))
	b[0] = 0x45
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	binary.BigEndian.PutUint16(b[6:], frag)
	b[8], b[9] = 64, proto
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return append(b, payload...)
}

func ipv6Packet(src, dst netip.Addr, next byte, payload []byte) []byte {
	b := make([]byte, 40, 40+len(payload))
	b[0] = 0x60
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	b[6], b[7] = next, 64
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return append(b, payload...)
}

// transportSum fills in the checksum of a transport header, at offset off.
func transportSum(src, dst netip.Addr, proto byte, b []byte, off int) {
	var pseudo [4]byte
	pseudo[1] = proto
	binary.BigEndian.PutUint16(pseudo[2:], uint16(len(b)))
	binary.BigEndian.PutUint16(b[off:], checksum(src.AsSlice(), dst.AsSlice(), pseudo[:], b))
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
	transportSum(src.Addr(), dst.Addr(), protoTCP, b, 16)
	return ipPacket(src.Addr(), dst.Addr(), protoTCP, b)
}

func udpPacket(src, dst netip.AddrPort, payload []byte) []byte {
	return ipPacket(src.Addr(), dst.Addr(), protoUDP, udpDatagram(src, dst, payload))
}

func udpDatagram(src, dst netip.AddrPort, payload []byte) []byte {
	b := make([]byte, 8, 8+len(payload))
	binary.BigEndian.PutUint16(b, src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
	b = append(b, payload...)
	transportSum(src.Addr(), dst.Addr(), protoUDP, b, 6)
	return b
}

// icmpEcho is an echo request of the addresses' family.
func icmpEcho(src, dst netip.Addr, id, seq uint16, payload []byte) []byte {
	if src.Is6() {
		b := echoMessage(128, id, seq, payload)
		transportSum(src, dst, protoICMPv6, b, 2)
		return ipPacket(src, dst, protoICMPv6, b)
	}
	b := echoMessage(8, id, seq, payload)
	binary.BigEndian.PutUint16(b[2:], checksum(b))
	return ipPacket(src, dst, protoICMP, b)
}

func echoMessage(kind byte, id, seq uint16, payload []byte) []byte {
	b := make([]byte, 8, 8+len(payload))
	b[0] = kind
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[6:], seq)
	return append(b, payload...)
}

// fragment6 is a fragment header and what follows it (RFC 8200 §4.5); offset is
// in units of 8 bytes.
func fragment6(next byte, offset uint16, more bool, id uint32, payload []byte) []byte {
	b := make([]byte, 8, 8+len(payload))
	b[0] = next
	binary.BigEndian.PutUint16(b[2:], offset<<3)
	if more {
		b[3] |= 1
	}
	binary.BigEndian.PutUint32(b[4:], id)
	return append(b, payload...)
}

// addr4 and addr6 are the i-th address of a network.
func addr4(a, b byte, i int) netip.Addr {
	return netip.AddrFrom4([4]byte{a, b, byte(i >> 8), byte(i)})
}

func addr6(first, second byte, i int) netip.Addr {
	return netip.AddrFrom16([16]byte{0: first, 1: second, 13: 2, 14: byte(i >> 8), 15: byte(i)})
}
