package ippkt

import "encoding/binary"

// Fragments cuts what follows an IP header into pieces that fit an MTU.
type Fragments struct {
	header Header
	id     uint32
	proto  uint8 // IPv6: of what is cut
	size   int   // bytes behind the IP header in all
	room   int   // bytes of each fragment but the last, a multiple of 8
	off    int   // of the next fragment
}

// Fragment starts to cut size bytes behind the header h. Packets with the same
// addresses and protocol need different ids for as long as fragments may live;
// IPv4 uses 16 bits of it.
func Fragment(h Header, id uint32, size, mtu int) Fragments {
	f := Fragments{header: h, id: id, size: size}
	overhead := IPv4Len
	if h.Src.Is4() {
		f.header.ID = uint16(id)
	} else {
		overhead = IPv6Len + FragmentLen
		f.header.Proto, f.proto = ProtoFragment, h.Proto
	}
	f.room = (mtu - overhead) &^ 7
	return f
}

// Next writes the headers of the next fragment to b, which has room for
// MaxHeaders, and returns their length and which bytes follow: n from off on.
// It reports false when there is no fragment left, or the MTU has room for none.
func (f *Fragments) Next(b []byte) (hdrLen, off, n int, ok bool) {
	if f.off >= f.size || f.room <= 0 {
		return 0, 0, 0, false
	}
	off = f.off
	n = min(f.room, f.size-off)
	f.off += n
	more := f.off < f.size
	if f.header.Src.Is4() {
		f.header.Frag = uint16(off / 8)
		if more {
			f.header.Frag |= FlagMF
		}
		return f.header.Put(b, n), off, n, true
	}
	hdrLen = f.header.Put(b, FragmentLen+n)
	PutFragmentHeader(b[hdrLen:], f.proto, off, more, f.id)
	return hdrLen + FragmentLen, off, n, true
}

// PutFragmentHeader writes an IPv6 fragment header before a packet of the
// protocol next. The offset is in bytes, a multiple of 8.
func PutFragmentHeader(b []byte, next uint8, off int, more bool, id uint32) {
	field := uint16(off)
	if more {
		field |= 1
	}
	b[0], b[1] = next, 0
	binary.BigEndian.PutUint16(b[2:], field)
	binary.BigEndian.PutUint32(b[4:], id)
}

// AppendRange appends to dst the slices that make up n bytes of bufs from off on.
func AppendRange(dst, bufs [][]byte, off, n int) [][]byte {
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
