package ippkt

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// Sums are ones' complement sums of 16-bit words in network byte order (RFC
// 1071). A checksum field holds the complement of a sum.

// Sum adds the bytes of b to sum. If the length of b is odd, b is the last part
// of what is summed.
func Sum(b []byte, sum uint16) uint16 {
	return Add(sum, wordSum(b))
}

// wordSum is the sum of b. Words are added in the machine's byte order, and the
// result is swapped (RFC 1071 §2 (B)).
func wordSum(b []byte) uint16 {
	var acc, carry uint64
	for len(b) >= 64 {
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b), 0)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b[8:]), carry)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b[16:]), carry)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b[24:]), carry)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b[32:]), carry)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b[40:]), carry)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b[48:]), carry)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b[56:]), carry)
		acc += carry // the sum can't be all ones with a carry
		b = b[64:]
	}
	for len(b) >= 8 {
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b), 0)
		acc += carry
		b = b[8:]
	}
	if len(b) > 0 {
		var last [8]byte // padded with zeros
		copy(last[:], b)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(last[:]), 0)
		acc += carry
	}
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>16 + acc&0xffff
	acc = acc>>16 + acc&0xffff
	var word [2]byte
	binary.NativeEndian.PutUint16(word[:], uint16(acc))
	return be16(word[:])
}

// Add is the ones' complement sum of a and b.
func Add(a, b uint16) uint16 {
	v := uint32(a) + uint32(b)
	return uint16(v + v>>16)
}

// SumSlices adds the bytes of bufs, each of any length, to sum.
func SumSlices(sum uint16, bufs [][]byte) uint16 {
	odd := false
	for _, b := range bufs {
		s := wordSum(b)
		if odd { // the bytes of each word are the other way round (RFC 1071 §2 (B))
			s = bits.ReverseBytes16(s)
		}
		sum = Add(sum, s)
		odd = odd != (len(b)%2 != 0)
	}
	return sum
}

// PseudoSum is the sum of the pseudo-header of a transport packet of n bytes
// (RFC 768, RFC 8200 §8.1). The kernel expects that sum, not complemented, in
// the checksum field of a packet whose checksum it has to finish.
func PseudoSum(src, dst netip.Addr, proto uint8, n int) uint16 {
	sum := Add(uint16(proto), uint16(n))
	if src.Is4() {
		s, d := src.As4(), dst.As4()
		return Sum(d[:], Sum(s[:], sum))
	}
	s, d := src.As16(), dst.As16()
	return Sum(d[:], Sum(s[:], sum))
}

// Update returns the value of a checksum field after a 16-bit field that it
// covers has changed from old to now (RFC 1624).
func Update(check, old, now uint16) uint16 {
	return ^Add(Add(^check, ^old), now)
}
