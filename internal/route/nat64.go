package route

import (
	"context"
	"net/netip"
	"slices"
	"time"
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

// nat64Interval is how often a network is asked for its NAT64 prefixes: the host
// may have moved to another network.
const nat64Interval = 5 * time.Minute

// Lookup looks up the addresses of a name. The network is ip, ip4 or ip6.
type Lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)

// FollowNAT64 keeps the table's NAT64 prefixes those of the network, which lookup
// asks, until ctx ends. It closes known after the first answer or failure. When a
// later lookup fails, the last answer holds.
func (t *Table) FollowNAT64(ctx context.Context, lookup Lookup, known chan<- struct{}) {
	again := time.NewTicker(nat64Interval)
	defer again.Stop()
	for {
		if addrs, err := lookup(ctx, "ip6", NAT64Name); err == nil {
			t.SetNAT64(NAT64Prefixes(addrs))
		}
		if known != nil {
			close(known)
			known = nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return
		}
	}
}
