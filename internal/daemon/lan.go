package daemon

import (
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// sharedSpace is between a provider and its customers (RFC 6598).
var sharedSpace = netip.MustParsePrefix("100.64.0.0/10")

// lan knows which addresses are of a network that is somebody's own: those set
// aside for that (RFC 6890), this host's, and what is directly on its links,
// which with IPv6 has addresses like anybody's. The zero value is ready.
type lan struct{ near atomic.Pointer[nearby] }

// nearby is a look at this host's interfaces.
type nearby struct {
	subnets []netip.Prefix
	until   time.Time // when to look again: this host may move
}

const nearbyAge = 5 * time.Second

// contains reports whether --block-lan keeps a from a command.
func (l *lan) contains(a netip.Addr) bool {
	if a.IsPrivate() || a.IsLinkLocalUnicast() || a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() || sharedSpace.Contains(a) {
		return true
	}
	now := time.Now()
	n := l.near.Load()
	if n == nil || now.After(n.until) {
		n = &nearby{subnets: subnets(n), until: now.Add(nearbyAge)}
		l.near.Store(n)
	}
	for _, p := range n.subnets {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// subnets are those that this host has an address in; when they can't be read,
// those that it had.
func subnets(before *nearby) (list []netip.Prefix) {
	addrs, err := net.InterfaceAddrs()
	if err != nil && before != nil {
		return before.subnets
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Bits() > 0 {
			list = append(list, p.Masked())
		}
	}
	return list
}
