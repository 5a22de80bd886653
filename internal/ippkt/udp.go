package ippkt

import (
	"encoding/binary"
	"net/netip"
)

// UDPSumOffset is the offset of the checksum field in a UDP header.
const UDPSumOffset = 6

// PutUDP writes a UDP header for n bytes of payload with the given checksum
// field.
func PutUDP(b []byte, src, dst uint16, n int, check uint16) {
	binary.BigEndian.PutUint16(b, src)
	binary.BigEndian.PutUint16(b[2:], dst)
	binary.BigEndian.PutUint16(b[4:], uint16(UDPLen+n))
	binary.BigEndian.PutUint16(b[UDPSumOffset:], check)
}

// UDPChecksum returns the checksum field of a datagram of n bytes. Its header,
// with a checksum field of zero, and its payload are in bufs.
func UDPChecksum(src, dst netip.Addr, n int, bufs [][]byte) uint16 {
	check := ^SumSlices(PseudoSum(src, dst, ProtoUDP, n), bufs)
	if check == 0 {
		return 0xffff // 0 means that there is none (RFC 768)
	}
	return check
}
