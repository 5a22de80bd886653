package netcfg

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// capture is what moves traffic into the TUN while it lasts.
type capture struct {
	h         *Host
	releasing bool       // new flows are let go, captured ones still drain
	cgroups   []*os.File // each keeps one cgroup out
	services  *os.File   // keeps this host's UDP services answering; nil if it can't
	resolved  *resolved  // nil unless systemd-resolved was told of us
}

// Capture moves Config.Routes into the TUN. Call it once the stack serves; it
// does nothing without routes. On error nothing of it is left.
func (h *Host) Capture(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.slot == nil || h.capture != nil || h.closed {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	c := &capture{h: h}
	if err := c.start(ctx); err != nil {
		return fmt.Errorf("netcfg: capture: %w", permission(errors.Join(err, c.undo())))
	}
	h.capture = c
	return nil
}

// Release lets new flows go where they went before. Those that were captured
// keep their way through the TUN until Close, so that they can drain.
func (h *Host) Release() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.capture == nil {
		return nil
	}
	h.capture.releasing = true
	if err := h.capture.removeRules(func(r rule) bool { return !r.draining && r.action != nop }); err != nil {
		return fmt.Errorf("netcfg: release: %w", err)
	}
	return nil
}

// start makes the exclusions first, so that they hold from the first flow.
func (c *capture) start(ctx context.Context) error {
	for _, path := range c.h.cfg.ExcludeCgroups {
		f, err := excludeCgroup(path, c.h.mark)
		if err != nil {
			return err
		}
		c.cgroups = append(c.cgroups, f)
	}
	if c.h.cfg.Gateway {
		if err := c.h.relaxReversePath(); err != nil {
			return err
		}
	}
	var err error
	c.services, err = serveUDP(fmt.Sprint("netstackd-", c.h.slot.n), c.h.index, c.h.mark, c.h.cfg.Addresses)
	if err != nil {
		c.h.log.Warn("UDP services of this host that are bound to no address won't answer captured destinations",
			"err", err, "mend", "a kernel with CONFIG_NF_TABLES_INET and CONFIG_NFT_SOCKET")
	}
	if err := c.sync(); err != nil {
		return err
	}
	if len(c.h.cfg.DNS) > 0 && (hasDefault(ipv4, c.h.cfg.Routes) || hasDefault(ipv6, c.h.cfg.Routes)) {
		if c.resolved, err = tellResolved(ctx, c.h.link, c.h.cfg.DNS); err != nil {
			return err
		}
		if c.resolved != nil {
			c.h.uplinks.Store(&uplinks{own: c.h.cfg.DNS})
		}
	}
	return nil
}

// sync brings table and rules to what they should be and changes nothing that
// already is. Table first: rules must not lead to an empty one for a moment.
func (c *capture) sync() error {
	for _, f := range c.h.families {
		if err := c.syncTables(f); err != nil {
			return err
		}
		have, err := c.ownRules(f)
		if err != nil {
			return err
		}
		for _, r := range c.rules(f) {
			n := r.netlinkRule(f, *c.h.slot)
			if have[keyOf(n)] {
				continue
			}
			if err := addRule(c.h.nl, n); err != nil {
				return err
			}
			c.h.log.Debug("rule added", "rule", n.String())
		}
	}
	return nil
}

// rules are the wanted ones of a family, in the order in which to add them.
func (c *capture) rules(f family) []rule {
	rules := planRules(f, c.h.link, c.h.mark, c.h.cfg.Addresses, c.h.cfg)
	if c.releasing {
		rules = slices.DeleteFunc(rules, func(r rule) bool { return !r.draining && r.action != nop })
	}
	return rules
}

// undo removes rules and routes, in the reverse order.
func (c *capture) undo() error {
	var errs []error
	if _, err := c.h.nl.LinkByIndex(c.h.index); err == nil && c.resolved != nil {
		errs = append(errs, c.resolved.Close())
	}
	c.h.uplinks.Store(nil)
	errs = append(errs, c.removeRules(func(rule) bool { return true }))
	for _, f := range append(c.cgroups, c.services) {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	for _, table := range c.h.slot.tables() {
		_, err := cleanTable(c.h.nl, table)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (c *capture) removeRules(which func(rule) bool) error {
	var errs []error
	for _, f := range c.h.families {
		rules := planRules(f, c.h.link, c.h.mark, c.h.cfg.Addresses, c.h.cfg)
		for _, r := range slices.Backward(rules) {
			if which(r) {
				errs = append(errs, deleteRule(c.h.nl, r.netlinkRule(f, *c.h.slot)))
			}
		}
	}
	return errors.Join(errs...)
}

// ownRules are the rules in our band that are there.
func (c *capture) ownRules(f family) (map[ruleKey]bool, error) {
	list, err := listRules(c.h.nl)
	if err != nil {
		return nil, err
	}
	have := make(map[ruleKey]bool)
	for _, r := range list {
		base := c.h.slot.base()
		if r.Family == f.nl() && r.Protocol == Protocol && r.Priority >= base && r.Priority < base+bandSize {
			have[keyOf(&r)] = true
		}
	}
	return have, nil
}

// ruleKey tells our rules of one family apart.
type ruleKey struct {
	priority, proto int
	mark            uint32
	iif, from       string
	uid             UIDRange
}

func keyOf(r *netlink.Rule) ruleKey {
	k := ruleKey{priority: r.Priority, proto: r.IPProto, mark: r.Mark, iif: r.IifName}
	if r.Src != nil {
		k.from = r.Src.String()
	}
	if r.UIDRange != nil {
		k.uid = UIDRange{r.UIDRange.Start, r.UIDRange.End}
	}
	return k
}

// syncTables brings table T and its twin to what they should hold.
func (c *capture) syncTables(f family) error {
	connected, err := c.connected(f)
	if err != nil {
		return err
	}
	cfg := &c.h.cfg
	return errors.Join(
		c.syncTable(f, c.h.slot.table(), planTable(f, cfg.Routes, cfg.Excludes, connected)),
		c.syncTable(f, c.h.slot.dnsTable(), planDNSTable(f, cfg.Routes, cfg.Excludes)))
}

func (c *capture) syncTable(f family, table int, plan tablePlan) error {
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
		if _, ok := stale[k]; ok {
			delete(stale, k)
			continue
		}
		if err := c.addRoute(table, k.dst, k.throw); err != nil {
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

func (c *capture) addRoute(table int, dst netip.Prefix, throw bool) error {
	r := &netlink.Route{Table: table, Dst: toIPNet(dst), Protocol: Protocol}
	if throw {
		r.Type = unix.RTN_THROW
	} else {
		r.LinkIndex = c.h.index
		// Not link scope, which a device route usually has: the kernel looks
		// up a gateway that somebody adds a route by at that scope, and must
		// not find the TUN in the moment before a new subnet is thrown out.
		r.Scope = netlink.SCOPE_UNIVERSE
		for _, a := range c.h.cfg.Addresses {
			if a.Addr().Is4() == dst.Addr().Is4() {
				r.Src = a.Addr().AsSlice() // what new flows get as their source
			}
		}
	}
	if err := c.h.nl.RouteReplace(r); err != nil {
		return fmt.Errorf("route %s: %w", dst, err)
	}
	c.h.log.Debug("route added", "dst", dst.String(), "throw", throw)
	return nil
}

func (c *capture) deleteRoute(r *netlink.Route) error {
	if err := c.h.nl.RouteDel(r); err != nil && !gone(err) {
		return fmt.Errorf("remove route %s of table %d: %w", r.Dst, r.Table, err)
	}
	return nil
}
