package netcfg

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// connected lists the subnets that are directly on one of the host's links: the
// ones that addresses brought (the kernel's own routes) or that a router
// advertised as on-link, and gateways with a host route of their own. A static
// route without a gateway is not one: what it covers works through the stack
// just as well, and one that a DHCP server slipped in must not open a hole.
func (c *capture) connected(f family) ([]netip.Prefix, error) {
	routes, err := listTable(c.h.nl, f.nl(), unix.RT_TABLE_MAIN)
	if err != nil {
		return nil, err
	}
	gateways := make(map[netip.Addr]bool)
	for _, r := range routes {
		if a, ok := netip.AddrFromSlice(r.Gw); ok {
			gateways[a.Unmap()] = true
		}
		for _, nh := range r.MultiPath {
			if a, ok := netip.AddrFromSlice(nh.Gw); ok {
				gateways[a.Unmap()] = true
			}
		}
	}
	var subnets []netip.Prefix
	for _, r := range routes {
		if r.Type != unix.RTN_UNICAST || r.Gw != nil || r.Via != nil || len(r.MultiPath) > 0 || r.Dst == nil ||
			r.LinkIndex == 0 || r.LinkIndex == c.h.index {
			continue
		}
		dst := fromIPNet(r.Dst, f)
		switch {
		case r.Protocol == unix.RTPROT_KERNEL, r.Protocol == unix.RTPROT_RA:
			subnets = append(subnets, dst)
		case dst.IsSingleIP() && gateways[dst.Addr()]:
			subnets = append(subnets, dst)
		}
	}
	return subnets, nil
}
