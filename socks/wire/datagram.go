package wire

import (
	"errors"
	"io"
)

// errFragment is the error of a fragment. This package does not reassemble, and
// RFC 1928 §7 then says to drop it.
var errFragment = errors.New("socks: fragmented datagram")

// errReserved is the error of a datagram whose reserved bytes are not zero.
var errReserved = errors.New("socks: datagram with reserved bytes set")

// AppendDatagramHeader appends what precedes the payload of a UDP datagram
// between client and server (RFC 1928 §7). The error wraps ErrName.
func AppendDatagramHeader(b []byte, a Addr) ([]byte, error) {
	return a.Append(append(b, 0, 0, 0))
}

// ParseDatagram splits a UDP datagram between client and server into its
// address and its payload, which aliases b. Fragments are an error.
func ParseDatagram(b []byte) (Addr, []byte, error) {
	if len(b) < 4 {
		return Addr{}, nil, io.ErrUnexpectedEOF
	}
	if b[0] != 0 || b[1] != 0 {
		return Addr{}, nil, errReserved
	}
	if b[2] != 0 {
		return Addr{}, nil, errFragment
	}
	a, n, err := ParseAddr(b[3:])
	if err != nil {
		return Addr{}, nil, err
	}
	return a, b[3+n:], nil
}
