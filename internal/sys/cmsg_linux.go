package sys

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Control messages are a struct cmsghdr (length, level, type), the data, and
// padding. These are written and read in place: package unix's own functions
// allocate.

const (
	cmsgHdrLen = unix.SizeofCmsghdr
	wordLen    = cmsgHdrLen - 8 // of the length field

	// CmsgIntLen is the length of a message with an int in it, padded.
	CmsgIntLen = (cmsgHdrLen + 4 + wordLen - 1) &^ (wordLen - 1)
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

// PutCmsgInt writes a message with an int, and returns its length with padding.
func PutCmsgInt(b []byte, level, typ, v int) int {
	putCmsgHeader(b, level, typ, 4)
	binary.NativeEndian.PutUint32(b[cmsgHdrLen:], uint32(v))
	return CmsgIntLen
}

// PutCmsg16 writes a message with a uint16, and returns its length with padding.
func PutCmsg16(b []byte, level, typ int, v uint16) int {
	putCmsgHeader(b, level, typ, 2)
	binary.NativeEndian.PutUint16(b[cmsgHdrLen:], v)
	return CmsgIntLen
}

// NextCmsg splits the first message off b. A nil rest means that there was none.
func NextCmsg(b []byte) (level, typ int, data, rest []byte) {
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

// CmsgValue reads data that is an int or a single byte: the kernel sends either
// for a traffic class.
func CmsgValue(data []byte) int {
	switch {
	case len(data) >= 4:
		return int(binary.NativeEndian.Uint32(data))
	case len(data) >= 1:
		return int(data[0])
	}
	return 0
}
