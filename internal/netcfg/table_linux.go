package netcfg

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// syncTables brings tables T and D, and both again with the path's MTU, to
// what they should hold.
func (c *capture) syncTables(f family) error {
	connected, err := c.connected(f)
	if err != nil {
		return err
	}
	cfg, slot := &c.h.cfg, c.h.slot
	plan := planTable(f, cfg.Routes, cfg.Excludes, connected)
	dns := planDNSTable(f, cfg.Routes, cfg.Excludes)
	mtus, err := c.pathMTUs(f, plan.device)
	if err != nil {
		return err
	}
	return errors.Join(
		c.syncTable(f, slot.table(), plan, nil),
		c.syncTable(f, slot.dnsTable(), dns, nil),
		c.syncTable(f, slot.pathTable(), plan, mtus),
		c.syncTable(f, slot.dnsPathTable(), dns, mtus))
}

// syncTable brings one table to its plan. Of mtus are its routes' own MTUs; the
// others have the TUN's.
func (c *capture) syncTable(f family, table int, plan tablePlan, mtus map[netip.Prefix]int) error {
	list, err := listTable(c.h.nl, f.nl(), table)
	if err != nil {
		return err
	}
	type key struct {
		dst   netip.Prefix
		throw bool
	}
	stale := make(map[key]netlink.Route)
	for _, r := range list {
		stale[key{fromIPNet(r.Dst, f), r.Type == unix.RTN_THROW}] = r
	}
	for _, k := range slices.Concat(
		keys(plan.throw, func(p netip.Prefix) key { return key{p, true} }),
		keys(plan.device, func(p netip.Prefix) key { return key{p, false} }),
	) {
		mtu := 0
		if !k.throw {
			mtu = mtus[k.dst]
		}
		have, ok := stale[k]
		delete(stale, k)
		if ok && have.MTU == mtu {
			continue
		}
		if err := c.addRoute(table, k.dst, k.throw, mtu); err != nil {
			return err
		}
	}
	for _, r := range stale {
		if err := c.deleteRoute(&r); err != nil {
			return err
		}
	}
	return nil
}

func keys[T, K any](list []T, of func(T) K) []K {
	out := make([]K, 0, len(list))
	for _, v := range list {
		out = append(out, of(v))
	}
	return out
}

// addRoute adds a route or replaces the one to the same destination.
func (c *capture) addRoute(table int, dst netip.Prefix, throw bool, mtu int) error {
	r := &netlink.Route{Table: table, Dst: toIPNet(dst), Protocol: Protocol}
	if throw {
		r.Type = unix.RTN_THROW
	} else {
		r.LinkIndex = c.h.index
		r.MTU = mtu
		// Not link scope, which a device route usually has: the kernel looks
		// up the gateway of a route that is being added at that scope, and must
		// not find the TUN in the moment before a new subnet is thrown out.
		r.Scope = netlink.SCOPE_UNIVERSE
		for _, a := range c.h.cfg.Addresses {
			if a.Addr().Is4() == dst.Addr().Is4() {
				r.Src = a.Addr().AsSlice() // what new flows get as their source
			}
			if stack := a.Addr().Next(); !dst.Addr().Is4() && !a.Addr().Is4() && a.Contains(stack) {
				r.Gw, r.Flags = stack.AsSlice(), int(netlink.FLAG_ONLINK) // see keepNeighbors
			}
		}
	}
	if err := c.h.nl.RouteReplace(r); err != nil {
		return fmt.Errorf("route %s: %w", dst, err)
	}
	c.h.log.Debug("route added", "dst", dst.String(), "table", table, "throw", throw, "mtu", mtu)
	return nil
}

func (c *capture) deleteRoute(r *netlink.Route) error {
	if err := c.h.nl.RouteDel(r); err != nil && !gone(err) {
		return fmt.Errorf("remove route %s of table %d: %w", r.Dst, r.Table, err)
	}
	return nil
}
