package netcfg

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// prove asks the kernel, for each captured prefix, where a new TCP flow and a new
// UDP flow of a captured user would go. When no address of the prefix leads into
// the TUN, the error names the rule that stands in the way. One that takes a part of
// the prefix is a detour.
func (c *capture) prove() error {
	if c.releasing {
		return nil
	}
	uid, ok := capturedUID(c.h.cfg.IncludeUIDs, c.h.cfg.ExcludeUIDs)
	if !ok {
		return nil
	}
	for _, f := range c.h.families {
		connected, err := c.connected(f)
		if err != nil {
			return err
		}
		plan := planTable(f, c.h.cfg.Routes, c.h.cfg.Excludes, connected)
		for _, p := range plan.device {
			addrs := plan.inside(p)
			for _, proto := range []int{protoTCP, protoUDP} {
				if err := c.proveAny(f, p, addrs, newFlow{uid: uid, proto: proto}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// proveAny returns nil if a flow to one of the addresses goes into the TUN, else
// what the first meets.
func (c *capture) proveAny(f family, p netip.Prefix, addrs []netip.Addr, q newFlow) (failed error) {
	for _, q.dst = range addrs {
		way, err := c.h.lookUp(q)
		if err == nil && way.link == c.h.index {
			return nil
		}
		if failed == nil {
			failed = c.obstacle(f, p, q, way, err)
		}
	}
	return failed
}

// obstacle is the error for a prefix that is not captured.
func (c *capture) obstacle(f family, p netip.Prefix, q newFlow, way path, err error) error {
	rules, lerr := c.h.rulesBefore(f)
	if lerr != nil {
		return lerr
	}
	if r := blame(rules, c.h.slot.base(), q, way, err); r != nil {
		return fmt.Errorf("%s is not captured: the rule %q is asked before ours, from %d on: "+
			"remove it (ip %srule del pref %d) and add it again with a priority above %d",
			p, ruleText(r), c.h.slot.base(), flag6(r.Family), r.Priority, c.h.slot.base()+bandSize-1)
	}
	if err == nil {
		err = errors.New("it leaves by another interface")
	}
	return fmt.Errorf("%s is not captured: ip route get %s uid %d ipproto %d: %w", p, q.dst, q.uid, q.proto, err)
}

// blame returns the rule by which a new flow went a way, or failed, if it is among
// rules, which are asked before ours, from base on; nil = it is not.
func blame(rules []netlink.Rule, base int, q newFlow, way path, err error) *netlink.Rule {
	var unknown *netlink.Rule // its table may have a route that refuses
	for i, r := range rules {
		if !ruleMatches(&r, q) {
			continue
		}
		switch {
		case r.Type == unix.FR_ACT_TO_TBL && err != nil:
			unknown = cmp.Or(unknown, &rules[i])
		case r.Type == unix.FR_ACT_TO_TBL && way.table == r.Table,
			r.Type == unix.FR_ACT_GOTO && r.Goto > base,
			r.Type >= unix.FR_ACT_BLACKHOLE && err != nil:
			return &rules[i]
		}
	}
	return unknown
}

// ruleMatches reports whether a rule is for a new flow, as far as that can be seen.
func ruleMatches(r *netlink.Rule, q newFlow) bool {
	mask := ^uint32(0)
	if r.Mask != nil {
		mask = *r.Mask
	}
	match := (r.Tos == 0 || r.Tos == uint(q.tos)) && (q.mark^r.Mark)&mask == 0 && (r.IifName == "" || r.IifName == "lo") && r.OifName == "" &&
		(r.IPProto == 0 || r.IPProto == q.proto) && hasPort(r.Sport, q.sport) && hasPort(r.Dport, q.dport) &&
		covers(r.Src, netip.Addr{}) && covers(r.Dst, q.dst) &&
		(r.UIDRange == nil || r.UIDRange.Start <= q.uid && q.uid <= r.UIDRange.End)
	return match != r.Invert
}

func hasPort(r *netlink.RulePortRange, port uint16) bool {
	return r == nil || r.Start <= port && port <= r.End
}

// covers reports whether a selector matches an address; the invalid one is the
// source of a flow that has none yet.
func covers(n *net.IPNet, a netip.Addr) bool {
	if n == nil {
		return true
	}
	bits, _ := n.Mask.Size()
	return bits == 0 || a.IsValid() && n.Contains(a.AsSlice())
}

// capturedUID is a user whose traffic is captured, if there is one.
func capturedUID(includes, excludes []UIDRange) (uint32, bool) {
	candidates := []uint32{0}
	for _, r := range includes {
		candidates = append(candidates, r.First)
	}
	for _, r := range excludes {
		candidates = append(candidates, r.Last+1) // wraps to 0, which is one like any other
	}
	for _, uid := range candidates {
		if capturesUID(includes, excludes, uid) {
			return uid, true
		}
	}
	return 0, false
}

// capturesUID reports whether a user's traffic is captured.
func capturesUID(includes, excludes []UIDRange, uid uint32) bool {
	in := func(r UIDRange) bool { return r.First <= uid && uid <= r.Last }
	return (len(includes) == 0 || slices.ContainsFunc(includes, in)) && !slices.ContainsFunc(excludes, in)
}

// check proves the capture again, after a change of the network, and warns of what
// stands in the way of all or a part of it, once for each obstacle.
func (c *capture) check() {
	text := ""
	if err := c.prove(); err != nil {
		text = err.Error()
	}
	if text != "" && text != c.warned {
		c.h.log.Warn("capture is incomplete", "err", text)
	}
	c.warned = text
	if text == "" {
		c.warnDetours()
	}
}
