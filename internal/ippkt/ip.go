package ippkt

import (
	"encoding/binary"
	"net/netip"
)

// Flag bits of the IPv4 fragment field.
const (
	FlagDF = 0x4000
	FlagMF = 0x2000
)

// Header is an IPv4 or IPv6 header without options. Source and destination are
// of one family, which is that of the header.
type Header struct {
	Src, Dst netip.Addr
	Proto    uint8  // IPv6: the next header
	TTL, TOS uint8  // IPv6: hop limit and traffic class
	ID       uint16 // IPv4 only: identification
	Frag     uint16 // IPv4 only: flags, and the offset in units of 8 bytes
}

// HeaderLen returns the length of the IP header of a's family.
func HeaderLen(a netip.Addr) int {
	if a.Is4() {
		return IPv4Len
	}
	return IPv6Len
}

// Put writes the header of a packet with n bytes behind it, and returns the
// header's length. b has room for IPv6Len.
func (h *Header) Put(b []byte, n int) int {
	if !h.Src.Is4() {
		binary.BigEndian.PutUint32(b, 6<<28|uint32(h.TOS)<<20)
		binary.BigEndian.PutUint16(b[4:], uint16(n))
		b[6], b[7] = h.Proto, h.TTL
		src, dst := h.Src.As16(), h.Dst.As16()
		copy(b[8:24], src[:])
		copy(b[24:40], dst[:])
		return IPv6Len
	}
	b = b[:IPv4Len]
	b[0], b[1] = 4<<4|IPv4Len/4, h.TOS
	binary.BigEndian.PutUint16(b[2:], uint16(IPv4Len+n))
	binary.BigEndian.PutUint16(b[4:], h.ID)
	binary.BigEndian.PutUint16(b[6:], h.Frag)
	b[8], b[9] = h.TTL, h.Proto
	b[10], b[11] = 0, 0
	src, dst := h.Src.As4(), h.Dst.As4()
	copy(b[12:16], src[:])
	copy(b[16:20], dst[:])
	binary.BigEndian.PutUint16(b[10:], ^Sum(b, 0))
	return IPv4Len
}

// Unicast reports whether a can be the address of one host. It accepts loopback
// and subnet broadcast addresses: the address alone does not tell the latter.
func Unicast(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.Is4In6() &&
		(!a.Is4() || a.As4() != [4]byte{255, 255, 255, 255})
}

func be16(b []byte) uint16 { return binary.BigEndian.Uint16(b) }
