package route

import (
	"net/netip"
	"slices"
)

// NAT64Name is the name whose AAAA records show the NAT64 prefixes of a network
// (RFC 7050 §3). It has a final dot, so that no search list applies to it.
const NAT64Name = "ipv4only.arpa."

// nat64Lengths are those that a NAT64 prefix may have, in bits (RFC 6052 §2.2).
var nat64Lengths = [...]int{32, 40, 48, 56, 64, 96}

// NAT64Prefixes returns the prefixes that the addresses of NAT64Name show: its
// IPv4 addresses, which are known, are embedded in them.
func NAT64Prefixes(addrs []netip.Addr) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range addrs {
		if !a.Is6() || a.Is4In6() {
			continue
		}
		b := a.As16()
		for _, bits := range nat64Lengths {
			if !knownIPv4Only(extract(b, bits)) || bits < 96 && b[8] != 0 {
				continue
			}
			if p := netip.PrefixFrom(a.WithZone(""), bits).Masked(); !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	return out
}

// knownIPv4Only reports whether a is an A record of NAT64Name (RFC 7050 §2.2).
func knownIPv4Only(a netip.Addr) bool {
	return a == netip.AddrFrom4([4]byte{192, 0, 0, 170}) || a == netip.AddrFrom4([4]byte{192, 0, 0, 171})
}

// SetNAT64 replaces the NAT64 prefixes of the network, besides the well-known
// one.
func (t *Table) SetNAT64(list []netip.Prefix) { t.nat64.Store(&list) }
