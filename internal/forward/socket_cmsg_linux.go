package forward

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Control messages are a struct cmsghdr (length, level, type), the data, and
// padding. These are written and read in place: package unix's own functions
// allocate.

const (
	cmsgHdrLen = unix.SizeofCmsghdr
	wordLen    = cmsgHdrLen - 8                                  // of the length field
	cmsgIntLen = (cmsgHdrLen + 4 + wordLen - 1) &^ (wordLen - 1) // with an int in it, padded
)

func putCmsgHeader(b []byte, level, typ, n int) {
	if wordLen == 8 {
		binary.NativeEndian.PutUint64(b, uint64(cmsgHdrLen+n))
	} else {
		binary.NativeEndian.PutUint32(b, uint32(cmsgHdrLen+n))
	}
	binary.NativeEndian.PutUint32(b[wordLen:], uint32(level))
	binary.NativeEndian.PutUint32(b[wordLen+4:], uint32(typ))
}

// putCmsgInt writes a message with an int, and returns its length with padding.
func putCmsgInt(b []byte, level, typ, v int) int {
	putCmsgHeader(b, level, typ, 4)
	binary.NativeEndian.PutUint32(b[cmsgHdrLen:], uint32(v))
	return cmsgIntLen
}

// putCmsg16 writes a message with a uint16.
func putCmsg16(b []byte, level, typ int, v uint16) int {
	putCmsgHeader(b, level, typ, 2)
	binary.NativeEndian.PutUint16(b[cmsgHdrLen:], v)
	return cmsgIntLen
}

// nextCmsg splits the first message off b. A nil rest means that there was none.
func nextCmsg(b []byte) (level, typ int, data, rest []byte) {
	if len(b) < cmsgHdrLen {
		return 0, 0, nil, nil
	}
	n := int(binary.NativeEndian.Uint32(b))
	if wordLen == 8 {
		n = int(binary.NativeEndian.Uint64(b))
	}
	if n < cmsgHdrLen || n > len(b) {
		return 0, 0, nil, nil
	}
	level = int(binary.NativeEndian.Uint32(b[wordLen:]))
	typ = int(binary.NativeEndian.Uint32(b[wordLen+4:]))
	return level, typ, b[cmsgHdrLen:n], b[min(len(b), (n+wordLen-1)&^(wordLen-1)):]
}

// cmsgValue reads data that is a byte or an int, as the kernel sends either
// for a traffic class.
func cmsgValue(data []byte) int {
	switch {
	case len(data) >= 4:
		return int(binary.NativeEndian.Uint32(data))
	case len(data) >= 1:
		return int(data[0])
	}
	return 0
}
