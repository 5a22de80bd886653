package netcfg

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Inspector reads the routing of one network namespace and changes nothing.
type Inspector struct{ nl *netlink.Handle }

// Inspect opens an Inspector of the calling thread's network namespace.
func Inspect() (*Inspector, error) {
	h, err := openHandle()
	if err != nil {
		return nil, fmt.Errorf("netcfg: %w", err)
	}
	return &Inspector{h}, nil
}

// Close releases the netlink socket.
func (i *Inspector) Close() { i.nl.Close() }

// Rule is a rule of policy routing.
type Rule struct {
	Priority int
	IPv6     bool
}

// FirstPriority is the lowest priority number that our rules have. A rule with a
// lower one decides before ours.
const FirstPriority = firstBand

// Rules returns the rules of both families. A family without policy routing has
// none.
func (i *Inspector) Rules() ([]Rule, error) {
	rules, err := listRules(i.nl)
	if err != nil {
		return nil, fmt.Errorf("netcfg: %w", err)
	}
	list := make([]Rule, len(rules))
	for n, r := range rules {
		list[n] = Rule{Priority: r.Priority, IPv6: r.Family == netlink.FAMILY_V6}
	}
	return list, nil
}

// LeftOver counts the rules that killed daemons left. Cleanup removes them.
func (i *Inspector) LeftOver() (int, error) {
	rules, err := listRules(i.nl)
	if err != nil {
		return 0, fmt.Errorf("netcfg: %w", err)
	}
	n := 0
	for number := range maxSlots {
		s := slot{number}
		if taken, err := s.taken(i.nl, 0); err != nil || taken {
			continue
		}
		for _, r := range rules {
			if r.Protocol == Protocol && r.Priority >= s.base() && r.Priority < s.base()+bandSize {
				n++
			}
		}
	}
	return n, nil
}

// FreeMark returns the socket mark that Open would choose.
func (i *Inspector) FreeMark() (uint32, error) {
	rules, err := listRules(i.nl)
	if err != nil {
		return 0, fmt.Errorf("netcfg: %w", err)
	}
	mark, err := chooseMark(rules, 0)
	if err != nil {
		return 0, fmt.Errorf("netcfg: %w", err)
	}
	return mark, nil
}

// Uplink is a family's way out of the connected subnets.
type Uplink struct {
	Destination netip.Prefix // of the route
	Interface   string
	MTU         int // the interface's
}

// Uplink returns the default route of IPv4, or of IPv6, or, without one, the widest
// route that has a gateway. It reports whether there is one.
func (i *Inspector) Uplink(v6 bool) (Uplink, bool) {
	f := ipv4
	if v6 {
		f = ipv6
	}
	routes, err := listTable(i.nl, f.nl(), unix.RT_TABLE_MAIN)
	if err != nil {
		return Uplink{}, false
	}
	routes = slices.DeleteFunc(routes, func(r netlink.Route) bool {
		whole := fromIPNet(r.Dst, f).Bits() == 0
		return r.Type != unix.RTN_UNICAST || !whole && r.Gw == nil && r.Via == nil && len(r.MultiPath) == 0
	})
	if len(routes) == 0 {
		return Uplink{}, false
	}
	best := slices.MinFunc(routes, func(a, b netlink.Route) int {
		return cmp.Or(cmp.Compare(fromIPNet(a.Dst, f).Bits(), fromIPNet(b.Dst, f).Bits()), cmp.Compare(a.Priority, b.Priority))
	})
	index := best.LinkIndex
	if len(best.MultiPath) > 0 {
		index = best.MultiPath[0].LinkIndex
	}
	up := Uplink{Destination: fromIPNet(best.Dst, f)}
	if l, err := i.nl.LinkByIndex(index); err == nil {
		up.Interface, up.MTU = l.Attrs().Name, l.Attrs().MTU
	}
	return up, true
}

// StrictReversePath reports whether the kernel drops packets that come in on an
// interface and that it would answer by another one (RFC 3704 §2.2).
func StrictReversePath(iface string) (bool, error) {
	mode, err := reversePathMode(iface)
	if err != nil {
		return false, fmt.Errorf("netcfg: %w", err)
	}
	return mode == reversePathStrict, nil
}
