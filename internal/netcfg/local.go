package netcfg

import (
	"net/netip"
	"sync/atomic"
)

// localSet is the set of this host's own addresses: replaced as a whole, read
// without a lock.
type localSet struct {
	p atomic.Pointer[map[netip.Addr]struct{}]
}

func (s *localSet) store(addrs []netip.Addr) {
	m := make(map[netip.Addr]struct{}, len(addrs))
	for _, a := range addrs {
		m[a.Unmap().WithZone("")] = struct{}{}
	}
	s.p.Store(&m)
}

// contains reports whether a is in the set. All of 127.0.0.0/8 is.
func (s *localSet) contains(a netip.Addr) bool {
	a = a.Unmap()
	if a.IsLoopback() {
		return true
	}
	m := s.p.Load()
	if m == nil {
		return false
	}
	_, ok := (*m)[a.WithZone("")]
	return ok
}
