package route

import (
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// sharedSpace is between a provider and its customers (RFC 6598).
var sharedSpace = netip.MustParsePrefix("100.64.0.0/10")

// Interfaces knows the addresses and the subnets of this host's interfaces. It
// reads them at most once in 5 seconds. The zero value is ready.
type Interfaces struct{ seen atomic.Pointer[snapshot] }

// snapshot is what the interfaces had at one time.
type snapshot struct {
	addrs   []netip.Addr
	subnets []netip.Prefix
	until   time.Time // when to read them again
}

const snapshotAge = 5 * time.Second

// Has reports whether a is an address of this host.
func (i *Interfaces) Has(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return a.IsLoopback() || slices.Contains(i.current().addrs, a)
}

// LAN reports whether a belongs to a local network: address space that is set
// aside for that (RFC 6890), this host's own addresses, and its subnets, which
// with IPv6 often have global addresses. It takes no zone.
func (i *Interfaces) LAN(a netip.Addr) bool {
	if a.IsPrivate() || a.IsLinkLocalUnicast() || a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() || sharedSpace.Contains(a) {
		return true
	}
	for _, p := range i.current().subnets {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func (i *Interfaces) current() *snapshot {
	now := time.Now()
	s := i.seen.Load()
	if s == nil || now.After(s.until) {
		s = takeSnapshot(s, now)
		i.seen.Store(s)
	}
	return s
}

// takeSnapshot reads the interfaces. When that fails, the last snapshot holds.
func takeSnapshot(last *snapshot, now time.Time) *snapshot {
	s := &snapshot{until: now.Add(snapshotAge)}
	addrs, err := net.InterfaceAddrs()
	if err != nil && last != nil {
		s.addrs, s.subnets = last.addrs, last.subnets
		return s
	}
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err != nil {
			continue
		}
		s.addrs = append(s.addrs, p.Addr())
		if p.Bits() > 0 {
			s.subnets = append(s.subnets, p.Masked())
		}
	}
	return s
}
