package wire

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Address types (RFC 1928 §5).
const (
	atypIPv4   = 1
	atypDomain = 3
	atypIPv6   = 4
)

// Addr is an address as SOCKS carries it: an IP address or a name, and a port.
// It is a net.Addr, so that a datagram can be written to a name.
type Addr struct {
	Name string     // the host's name; only looked at when IP is not valid
	IP   netip.Addr // never an IPv4-mapped IPv6 address when it came off the wire
	Port uint16
}

// Network returns "socks".
func (a Addr) Network() string { return "socks" }

// String returns host:port, with an IPv6 address in brackets.
func (a Addr) String() string {
	if a.IP.IsValid() {
		return netip.AddrPortFrom(a.IP, a.Port).String()
	}
	return net.JoinHostPort(a.Name, strconv.Itoa(int(a.Port)))
}

// IsName reports whether a holds a name and no IP address.
func (a Addr) IsName() bool { return !a.IP.IsValid() }

// AddrPort returns a without its name.
func (a Addr) AddrPort() netip.AddrPort { return netip.AddrPortFrom(a.IP, a.Port) }

// AddrFrom returns ap as an Addr.
func AddrFrom(ap netip.AddrPort) Addr {
	return Addr{IP: ap.Addr().Unmap(), Port: ap.Port()}
}

// ParseHostPort splits host:port. A host that is an IP literal becomes an address,
// so that it is not looked up.
func ParseHostPort(hostport string) (Addr, error) {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return Addr{}, fmt.Errorf("socks: address %q: write host:port", hostport)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return Addr{}, fmt.Errorf("socks: address %q: the port must be a number up to 65535", hostport)
	}
	return hostAddr(host, uint16(n)), nil
}

// hostAddr makes an Addr of a host as clients write it. An IP literal that is sent
// as a domain, with or without brackets, becomes an address. A literal with a zone
// stays a name, because no SOCKS message can carry the zone.
func hostAddr(host string, port uint16) Addr {
	if !literalish(host) {
		return Addr{Name: host, Port: port}
	}
	literal := host
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		literal = host[1 : len(host)-1]
	}
	if ip, err := netip.ParseAddr(literal); err == nil && ip.Zone() == "" {
		return Addr{IP: ip.Unmap(), Port: port}
	}
	return Addr{Name: host, Port: port}
}

// literalish reports whether host may be an IP literal. It avoids most failing
// calls of netip.ParseAddr, which allocate an error.
func literalish(host string) bool {
	if host == "" {
		return false
	}
	last := host[len(host)-1]
	return last >= '0' && last <= '9' || strings.IndexByte(host, ':') >= 0
}

// Check returns an error for a name that no resolver and no proxy can take: an
// empty one, and one with control characters or spaces, which could inject text
// into another protocol. The error wraps ErrName.
func (a Addr) Check() error {
	if a.IP.IsValid() {
		return nil
	}
	if a.Name == "" {
		return fmt.Errorf("%w: empty", ErrName)
	}
	if len(a.Name) > 255 {
		return fmt.Errorf("%w: %d bytes, longer than 255", ErrName, len(a.Name))
	}
	for i := range len(a.Name) {
		if c := a.Name[i]; c <= ' ' || c == 0x7f {
			return fmt.Errorf("%w: byte %#02x", ErrName, c)
		}
	}
	return nil
}

// Append appends a in wire format: ATYP, address, port. An IPv4-mapped IPv6
// address is written as IPv4. The error wraps ErrName.
func (a Addr) Append(b []byte) ([]byte, error) {
	switch ip := a.IP.Unmap(); {
	case ip.Is4():
		v := ip.As4()
		b = append(append(b, atypIPv4), v[:]...)
	case ip.Is6():
		v := ip.As16()
		b = append(append(b, atypIPv6), v[:]...)
	default:
		if err := a.Check(); err != nil {
			return b, err
		}
		b = append(append(b, atypDomain, byte(len(a.Name))), a.Name...)
	}
	return binary.BigEndian.AppendUint16(b, a.Port), nil
}

// ParseAddr reads an address in wire format from the start of b and returns
// how many bytes it took. The error is io.ErrUnexpectedEOF when b ends too
// early, or wraps ErrAddrType. A name is not checked: see Check.
func ParseAddr(b []byte) (Addr, int, error) {
	if len(b) < 1 {
		return Addr{}, 0, io.ErrUnexpectedEOF
	}
	var n int // the length of ATYP and address
	switch b[0] {
	case atypIPv4:
		n = 1 + 4
	case atypIPv6:
		n = 1 + 16
	case atypDomain:
		if len(b) < 2 {
			return Addr{}, 0, io.ErrUnexpectedEOF
		}
		n = 2 + int(b[1])
	default:
		return Addr{}, 0, fmt.Errorf("%w %#02x", ErrAddrType, b[0])
	}
	if len(b) < n+2 {
		return Addr{}, 0, io.ErrUnexpectedEOF
	}
	port := binary.BigEndian.Uint16(b[n:])
	if b[0] == atypDomain {
		return hostAddr(string(b[2:n]), port), n + 2, nil
	}
	ip, _ := netip.AddrFromSlice(b[1:n])
	return Addr{IP: ip.Unmap(), Port: port}, n + 2, nil
}
