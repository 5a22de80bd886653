package testbed

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// The client's side of SOCKS5 as most clients speak it: no authentication is
// offered, and each message waits for the answer to the one before (RFC 1928
// §3, §4).

// The commands of RFC 1928 §4 that Handshake is used for.
const (
	SOCKSConnect   = 1
	SOCKSAssociate = 3
)

// UDPHeader precedes a datagram to a (RFC 1928 §7).
func UDPHeader(a netip.AddrPort) []byte {
	return appendAddr([]byte{0, 0, 0}, a)
}

func appendAddr(b []byte, a netip.AddrPort) []byte {
	ip := a.Addr().AsSlice()
	kind := byte(1)
	if len(ip) == 16 {
		kind = 4
	}
	b = append(append(b, kind), ip...)
	return append(b, byte(a.Port()>>8), byte(a.Port()))
}

// Handshake asks the server for a command and returns the address that the
// server bound.
func Handshake(c io.ReadWriter, command byte, a netip.AddrPort) (netip.AddrPort, error) {
	return handshake(c, command, appendAddr(nil, a))
}

// HandshakeName asks the server to connect to a name.
func HandshakeName(c io.ReadWriter, name string, port uint16) error {
	b := append([]byte{3, byte(len(name))}, name...)
	_, err := handshake(c, SOCKSConnect, append(b, byte(port>>8), byte(port)))
	return err
}

func handshake(c io.ReadWriter, command byte, dest []byte) (netip.AddrPort, error) {
	if _, err := c.Write([]byte{5, 1, 0}); err != nil {
		return netip.AddrPort{}, err
	}
	var reply [22]byte
	if _, err := io.ReadFull(c, reply[:2]); err != nil {
		return netip.AddrPort{}, err
	}
	if reply[0] != 5 || reply[1] != 0 {
		return netip.AddrPort{}, errors.New("asks for authentication")
	}
	if _, err := c.Write(append([]byte{5, command, 0}, dest...)); err != nil {
		return netip.AddrPort{}, err
	}
	if _, err := io.ReadFull(c, reply[:4]); err != nil {
		return netip.AddrPort{}, err
	}
	if reply[1] != 0 {
		return netip.AddrPort{}, fmt.Errorf("refused, reply %d", reply[1])
	}
	size := 4
	if reply[3] == 4 {
		size = 16
	}
	addr := reply[4 : 4+size+2]
	if _, err := io.ReadFull(c, addr); err != nil {
		return netip.AddrPort{}, err
	}
	ip, _ := netip.AddrFromSlice(addr[:size])
	return netip.AddrPortFrom(ip.Unmap(), uint16(addr[size])<<8|uint16(addr[size+1])), nil
}
