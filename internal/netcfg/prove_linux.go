package netcfg

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
)

// prove asks the kernel, for each captured prefix, where a new TCP flow and a new
// UDP flow of a captured user would go. The error names the rule that stands in
// the way.
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
			dst, ok := plan.inside(p)
			if !ok {
				continue
			}
			for _, proto := range []int{protoTCP, protoUDP} {
				q := newFlow{dst: dst, uid: uid, proto: proto}
				way, err := c.h.lookUp(q)
				if err != nil || way.link != c.h.index {
					return c.obstacle(f, p, q, way, err)
				}
			}
		}
	}
	return nil
}

// obstacle is the error for a prefix that is not captured.
func (c *capture) obstacle(f family, p netip.Prefix, q newFlow, way path, err error) error {
	rules, lerr := listRules(c.h.nl)
	if lerr != nil {
		return lerr
	}
	base := c.h.slot.base()
	for _, r := range rules {
		if r.Family != f.nl() || r.Priority == 0 || r.Priority >= base || !ruleMatches(&r, q) {
			continue
		}
		// The action is not among what netlink reads; only a table's is known.
		if err == nil && r.Goto <= 0 && way.table != r.Table {
			continue // asked, and had no route
		}
		ip := "ip " + flag6(f.nl()) + "rule"
		return fmt.Errorf("%s is not captured: the rule %q is asked before ours, from %d on: "+
			"remove it (%s del pref %d) and add it again with a priority above %d",
			p, ruleText(&r), base, ip, r.Priority, base+bandSize-1)
	}
	if err == nil {
		err = errors.New("it leaves by another interface")
	}
	return fmt.Errorf("%s is not captured: ip route get %s uid %d ipproto %d: %w", p, q.dst, q.uid, q.proto, err)
}

// ruleMatches reports whether a rule is for a new flow, as far as that can be seen.
func ruleMatches(r *netlink.Rule, q newFlow) bool {
	match := r.Mark == 0 && (r.IifName == "" || r.IifName == "lo") && r.OifName == "" &&
		(r.IPProto == 0 || r.IPProto == q.proto) && r.Sport == nil && r.Dport == nil &&
		covers(r.Src, netip.Addr{}) && covers(r.Dst, q.dst) &&
		(r.UIDRange == nil || r.UIDRange.Start <= q.uid && q.uid <= r.UIDRange.End)
	return match != r.Invert
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
	var candidates []uint32
	for _, r := range includes {
		candidates = append(candidates, r.First)
	}
	if len(includes) == 0 {
		candidates = append(candidates, 0)
	}
	for _, r := range excludes {
		candidates = append(candidates, r.Last+1) // wraps to 0, which is one like any other
	}
	in := func(list []UIDRange, uid uint32) bool {
		return slices.ContainsFunc(list, func(r UIDRange) bool { return r.First <= uid && uid <= r.Last })
	}
	for _, uid := range candidates {
		if (len(includes) == 0 || in(includes, uid)) && !in(excludes, uid) {
			return uid, true
		}
	}
	return 0, false
}

// warn says what stands in the way of the capture, once for each obstacle.
func (c *capture) warn(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != c.warned {
		c.h.log.Warn("capture is incomplete", "err", text)
	}
	c.warned = text
}
