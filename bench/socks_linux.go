package bench

import (
	"errors"
	"fmt"
	"net/netip"
)

// A client of a SOCKS5 server that does what most do: it offers no
// authentication, waits for the answer, and then asks (RFC 1928 §3, §4).

const (
	socksConnect   = 1
	socksAssociate = 3
)

// udpHeader precedes a datagram to a (RFC 1928 §7).
func udpHeader(a netip.AddrPort) []byte {
	return appendAddr([]byte{0, 0, 0}, a)
}

func appendAddr(b []byte, a netip.AddrPort) []byte {
	ip := a.Addr().As4()
	b = append(append(b, 1), ip[:]...)
	return append(b, byte(a.Port()>>8), byte(a.Port()))
}

// handshake asks for a command and returns the address that the server bound.
func handshake(fd int, command byte, a netip.AddrPort) (netip.AddrPort, error) {
	if err := writeFull(fd, []byte{5, 1, 0}); err != nil {
		return netip.AddrPort{}, err
	}
	var reply [22]byte
	if err := readFull(fd, reply[:2]); err != nil {
		return netip.AddrPort{}, err
	}
	if reply[0] != 5 || reply[1] != 0 {
		return netip.AddrPort{}, errors.New("asks for authentication")
	}
	if err := writeFull(fd, appendAddr([]byte{5, command, 0}, a)); err != nil {
		return netip.AddrPort{}, err
	}
	if err := readFull(fd, reply[:4]); err != nil {
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
	if err := readFull(fd, addr); err != nil {
		return netip.AddrPort{}, err
	}
	ip, _ := netip.AddrFromSlice(addr[:size])
	return netip.AddrPortFrom(ip.Unmap(), uint16(addr[size])<<8|uint16(addr[size+1])), nil
}
