package route

import (
	"net/netip"
	"strconv"
	"strings"
)

// nameAddr returns the address that a name stands for without a lookup, or the
// zero Addr. Such names are literals, with a zone or without; localhost and
// what is below it (RFC 6761 §6.3); and IPv4 addresses in the forms of
// inet_aton(3), such as 127.1, which an upstream's C library may take.
func nameAddr(name string) netip.Addr {
	name = strings.TrimSuffix(name, ".")
	if name == "" {
		return netip.Addr{}
	}
	last := name[strings.LastIndexByte(name, '.')+1:]
	switch {
	case strings.EqualFold(last, "localhost"):
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case strings.IndexByte(name, ':') >= 0:
		a, _ := netip.ParseAddr(strings.Trim(name, "[]"))
		return a
	case last != "" && last[0] >= '0' && last[0] <= '9':
		return aton(name)
	}
	return netip.Addr{}
}

// aton reads an IPv4 address of one to four parts, each decimal, octal or
// hexadecimal. The last part fills the bytes that are left.
func aton(s string) netip.Addr {
	var v uint64
	for shift := 24; ; shift -= 8 {
		part, rest, more := strings.Cut(s, ".")
		n, err := strconv.ParseUint(atonDigits(part), atonBase(part), 32)
		switch {
		case err != nil, shift < 0:
			return netip.Addr{}
		case !more:
			if n >= 1<<(shift+8) {
				return netip.Addr{}
			}
			v |= n
			return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
		case n > 255:
			return netip.Addr{}
		}
		v |= n << shift
		s = rest
	}
}

func atonBase(part string) int {
	switch {
	case strings.HasPrefix(part, "0x"), strings.HasPrefix(part, "0X"):
		return 16
	case len(part) > 1 && part[0] == '0':
		return 8
	}
	return 10
}

func atonDigits(part string) string {
	if atonBase(part) == 16 {
		return part[2:]
	}
	return part
}

// Prefixes whose addresses carry an IPv4 address.
var (
	nat64WellKnown = netip.MustParsePrefix("64:ff9b::/96")   // RFC 6052 §2.1
	nat64Local     = netip.MustParsePrefix("64:ff9b:1::/48") // RFC 8215
	sixToFour      = netip.MustParsePrefix("2002::/16")      // RFC 3056 §2
	teredo         = netip.MustParsePrefix("2001::/32")      // RFC 4380 §4
	compatible     = netip.MustParsePrefix("::/96")          // RFC 4291 §2.5.5.1
)

// lan reports whether a destination is on a local network, by itself or by the
// IPv4 address that it carries. Of the NAT64 prefix for local use, an address
// in an unknown form may carry any.
func (t *Table) lan(dst, inner netip.Addr) bool {
	if !inner.IsValid() {
		return t.near.LAN(dst) || nat64Local.Contains(dst)
	}
	return t.near.LAN(dst) || t.near.LAN(inner)
}

// embedded returns the IPv4 address that an IPv6 address carries, or the zero
// Addr. Translated says that it is the destination itself, by NAT64, and not
// the end of a tunnel.
func (t *Table) embedded(a netip.Addr) (inner netip.Addr, translated bool) {
	if !a.Is6() {
		return netip.Addr{}, false
	}
	b := a.As16()
	if found := t.nat64.Load(); found != nil {
		for _, p := range *found {
			if p.Contains(a) {
				return extract(b, p.Bits()), true
			}
		}
	}
	switch {
	case nat64WellKnown.Contains(a):
		return extract(b, 96), true
	case nat64Local.Contains(a) && [6]byte(b[6:12]) == [6]byte{}: // in the form of a /96
		return extract(b, 96), true
	case sixToFour.Contains(a):
		return netip.AddrFrom4([4]byte(b[2:6])), false
	case teredo.Contains(a): // the client's address, inverted
		return netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}), false
	case compatible.Contains(a) && !loopback(a):
		return extract(b, 96), false
	}
	return netip.Addr{}, false
}

// extract returns the IPv4 address in an IPv6 address whose NAT64 prefix has so
// many bits. Bits 64 to 71 are not used (RFC 6052 §2.2).
func extract(b [16]byte, bits int) netip.Addr {
	var v [4]byte
	for i, at := 0, bits/8; i < len(v); at++ {
		if at == 8 && bits < 96 {
			continue
		}
		v[i] = b[at]
		i++
	}
	return netip.AddrFrom4(v)
}
