package netcfg

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"netstackd/internal/sysctl"
)

const (
	unknownMTU = 1500  // of a path that there is none of, for now
	minMTU6    = 1280  // RFC 8200 §5
	maxMTU     = 65520 // the kernel lowers a route's to this
)

// pathMTUs returns the MTUs of the outbound paths to the prefixes where they
// are lower than the TUN's.
func (c *capture) pathMTUs(f family, prefixes []netip.Prefix) (map[netip.Prefix]int, error) {
	tun, err := c.h.nl.LinkByIndex(c.h.index)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", c.h.link, err)
	}
	out, err := newExits(c.h.nl, c.h.cfg.Interface, c.h.mark)
	if err != nil {
		return nil, err
	}
	delete(out.links, c.h.index)
	mtus := make(map[netip.Prefix]int)
	for _, p := range prefixes {
		mtu := out.mtu(p)
		if mtu == 0 {
			mtu = unknownMTU
		}
		if f == ipv6 {
			mtu = max(mtu, minMTU6)
		}
		if mtu = min(mtu, maxMTU); mtu < tun.Attrs().MTU {
			mtus[p] = mtu
		}
	}
	return mtus, nil
}

// exits knows the ways that sockets of ours would leave this host by.
type exits struct {
	nl    *netlink.Handle
	iface int // that they are bound to, 0 for none
	mark  uint32
	links map[int]*netlink.LinkAttrs // none of loopback
}

func newExits(nl *netlink.Handle, iface string, mark uint32) (*exits, error) {
	links, err := retryDump(nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	o := &exits{nl: nl, mark: mark, links: make(map[int]*netlink.LinkAttrs)}
	for _, l := range links {
		a := l.Attrs()
		if a.RawFlags&unix.IFF_LOOPBACK == 0 {
			o.links[a.Index] = a
		}
		if iface != "" && a.Name == iface {
			o.iface = a.Index
		}
	}
	return o, nil
}

// mtu is that of the route towards p, 0 if there is none: the lowest of its
// own, if it has one, and of the interfaces that it leaves by. What the kernel
// learned of single destinations is not in it, since that expires.
func (o *exits) mtu(p netip.Prefix) int {
	f := familyOf(p)
	addr := p.Addr()
	if p.Bits() == 0 {
		addr = far(f)[0]
	}
	routes, err := o.nl.RouteGetWithOptions(addr.AsSlice(),
		&netlink.RouteGetOptions{Mark: o.mark, OifIndex: o.iface, FIBMatch: true})
	if err != nil || len(routes) == 0 {
		return o.linkMTU(f, o.iface)
	}
	r := routes[0]
	mtu := o.linkMTU(f, r.LinkIndex)
	for _, hop := range r.MultiPath {
		mtu = lowest(mtu, o.linkMTU(f, hop.LinkIndex))
	}
	if mtu == 0 {
		return o.linkMTU(f, o.iface)
	}
	return lowest(mtu, r.MTU)
}

// linkMTU is that of an interface for one family, 0 if there is no such
// interface. A router may advertise a lower one for IPv6 (RFC 4861 §4.6.4).
func (o *exits) linkMTU(f family, index int) int {
	l := o.links[index]
	if l == nil {
		return 0
	}
	if f == ipv6 {
		if advertised, err := sysctl.Int("net/ipv6/conf/" + l.Name + "/mtu"); err == nil {
			return lowest(l.MTU, advertised)
		}
	}
	return l.MTU
}

// lowest is the lower of two MTUs, of which 0 is none.
func lowest(a, b int) int {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// OutboundMTU is the MTU of this host's way out, by the interface if that isn't
// "" and with the mark if that isn't 0: the lower one where IPv4 and IPv6 differ, 0
// where there is no way. It needs no privileges.
func OutboundMTU(iface string, mark uint32) (int, error) {
	nl, err := openHandle()
	if err != nil {
		return 0, fmt.Errorf("netcfg: %w", err)
	}
	defer nl.Close()
	o, err := newExits(nl, iface, mark)
	if err != nil {
		return 0, fmt.Errorf("netcfg: %w", err)
	}
	mtu := 0
	for _, p := range DefaultRoutes() {
		mtu = lowest(mtu, o.mtu(p))
	}
	return mtu, nil
}
