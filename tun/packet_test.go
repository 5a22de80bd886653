package tun_test

import (
	"encoding/binary"
	"net/netip"
)

// udpPacket returns an IPv4 packet with one UDP datagram and no UDP checksum.
func udpPacket(src, dst netip.AddrPort, payload []byte) []byte {
	p := make([]byte, 28+len(payload))
	p[0], p[8], p[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	copy(p[12:], src.Addr().AsSlice())
	copy(p[16:], dst.Addr().AsSlice())
	binary.BigEndian.PutUint16(p[10:], ^checksum(0, p[:20]))
	binary.BigEndian.PutUint16(p[20:], src.Port())
	binary.BigEndian.PutUint16(p[22:], dst.Port())
	binary.BigEndian.PutUint16(p[24:], uint16(8+len(payload)))
	copy(p[28:], payload)
	return p
}

// checksum adds b to the ones' complement sum so far (RFC 1071).
func checksum(sum uint32, b []byte) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// udpPayload returns the payload of an IPv4 packet with a UDP datagram to dst, nil if it is none.
func udpPayload(p []byte, dst netip.AddrPort) []byte {
	if len(p) < 28 || p[0] != 0x45 || p[9] != 17 ||
		netip.AddrFrom4([4]byte(p[16:20])) != dst.Addr() || binary.BigEndian.Uint16(p[22:]) != dst.Port() {
		return nil
	}
	return p[28:]
}

// pattern returns n bytes that tell one packet from another.
func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i) ^ byte(i>>8) ^ seed
	}
	return b
}

// pieces cuts b into n pieces, some of them empty when n is large.
func pieces(b []byte, n int) [][]byte {
	var bufs [][]byte
	for i := range n {
		bufs = append(bufs, b[len(b)*i/n:len(b)*(i+1)/n])
	}
	return bufs
}

func mustAddrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
