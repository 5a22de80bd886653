package forward

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"netstackd/internal/netstack"
)

// Header lengths in bytes, without options.
const (
	ipv4Len = 20 // RFC 791
	ipv6Len = 40 // RFC 8200
	fragLen = 8  // IPv6 fragment header, RFC 8200 §4.5
	udpLen  = 8  // RFC 768
	icmpLen = 8  // RFC 792, RFC 4443: all messages that we make

	maxHeaders = ipv6Len + fragLen + udpLen
	maxPacket  = 65535 // largest IPv4 packet, and IPv6 payload

	udpCsumOffset = 6 // of the checksum in the UDP header
)

// Flag bits of the IPv4 fragment field.
const (
	flagDF = 0x4000
	flagMF = 0x2000
)

const (
	protoFragment = 44 // next header value of the IPv6 fragment header
	defaultTTL    = 64
)

// ipHeader is what the IP headers made here differ in. Source and destination
// are of one family.
type ipHeader struct {
	src, dst netip.Addr
	proto    uint8
	ttl, tos uint8
	id       uint16 // IPv4 only
	frag     uint16 // IPv4 only: flags and offset in units of 8 bytes
}

// ipLen returns the length of the IP header of a's family.
func ipLen(a netip.Addr) int {
	if a.Is4() {
		return ipv4Len
	}
	return ipv6Len
}

// put writes the header of a packet with n bytes behind it, and returns its
// length. b has room for ipv6Len.
func (h *ipHeader) put(b []byte, n int) int {
	if !h.src.Is4() {
		binary.BigEndian.PutUint32(b, 6<<28|uint32(h.tos)<<20)
		binary.BigEndian.PutUint16(b[4:], uint16(n))
		b[6], b[7] = h.proto, h.ttl
		src, dst := h.src.As16(), h.dst.As16()
		copy(b[8:24], src[:])
		copy(b[24:40], dst[:])
		return ipv6Len
	}
	b = b[:ipv4Len]
	b[0], b[1] = 4<<4|ipv4Len/4, h.tos
	binary.BigEndian.PutUint16(b[2:], uint16(ipv4Len+n))
	binary.BigEndian.PutUint16(b[4:], h.id)
	binary.BigEndian.PutUint16(b[6:], h.frag)
	b[8], b[9] = h.ttl, h.proto
	b[10], b[11] = 0, 0
	src, dst := h.src.As4(), h.dst.As4()
	copy(b[12:16], src[:])
	copy(b[16:20], dst[:])
	binary.BigEndian.PutUint16(b[10:], ^checksum.Checksum(b, 0))
	return ipv4Len
}

// putUDP writes a UDP header for n bytes of payload with the given checksum field.
func putUDP(b []byte, src, dst uint16, n int, sum uint16) {
	binary.BigEndian.PutUint16(b, src)
	binary.BigEndian.PutUint16(b[2:], dst)
	binary.BigEndian.PutUint16(b[4:], uint16(udpLen+n))
	binary.BigEndian.PutUint16(b[udpCsumOffset:], sum)
}

// putSum fills in the checksum of a UDP header.
func putSum(b []byte, sum uint16) {
	binary.BigEndian.PutUint16(b[udpCsumOffset:], sum)
}

// pseudoSum sums the pseudo-header of a transport packet of n bytes (RFC 768,
// RFC 8200 §8.1). That sum, not complemented, is what the kernel wants to find
// in a packet whose checksum it has to finish.
func pseudoSum(src, dst netip.Addr, proto uint8, n int) uint16 {
	var b [4]byte
	b[1] = proto
	binary.BigEndian.PutUint16(b[2:], uint16(n))
	sum := checksum.Checksum(b[:], 0)
	if src.Is4() {
		s, d := src.As4(), dst.As4()
		return checksum.Checksum(d[:], checksum.Checksum(s[:], sum))
	}
	s, d := src.As16(), dst.As16()
	return checksum.Checksum(d[:], checksum.Checksum(s[:], sum))
}

// sumSlices adds the bytes of bufs, which may have odd lengths, to sum.
func sumSlices(sum uint16, bufs [][]byte) uint16 {
	var c checksum.Checksumer
	for _, b := range bufs {
		c.Add(b)
	}
	return checksum.Combine(sum, c.Checksum())
}

// udpSum returns the checksum field of a datagram whose header, with a zero
// checksum, and payload are in bufs.
func udpSum(src, dst netip.Addr, n int, bufs [][]byte) uint16 {
	sum := ^sumSlices(pseudoSum(src, dst, netstack.ProtoUDP, n), bufs)
	if sum == 0 {
		return 0xffff // 0 means that there is none (RFC 768)
	}
	return sum
}

// appendRange appends to dst the slices that make up n bytes of bufs from off on.
func appendRange(dst, bufs [][]byte, off, n int) [][]byte {
	for _, b := range bufs {
		if n == 0 {
			break
		}
		if off >= len(b) {
			off -= len(b)
			continue
		}
		b = b[off:]
		off = 0
		if len(b) > n {
			b = b[:n]
		}
		n -= len(b)
		dst = append(dst, b)
	}
	return dst
}

func be16(b []byte) uint16 { return binary.BigEndian.Uint16(b) }

// unicast reports whether a can be the other end of a flow. Loopback and
// subnet broadcast addresses are the stack's to drop.
func unicast(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.Is4In6() &&
		(!a.Is4() || a.As4() != [4]byte{255, 255, 255, 255})
}
