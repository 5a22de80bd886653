package netcfg

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// maxDetourRules bounds the rules that are tried: some hosts have thousands.
const maxDetourRules = 256

// maxDetourPrefixes bounds the captured prefixes in which each rule is tried: there
// may be a list of a whole country's. Those in the rule itself are always tried.
const maxDetourPrefixes = 64

// warnDetours warns of each detour once, for as long as it is there.
func (c *capture) warnDetours() {
	if c.releasing {
		return
	}
	found, err := c.detours()
	if err != nil {
		c.h.log.Debug("rules before ours were not read", "err", err)
		return
	}
	for text := range found {
		if !c.detoured[text] {
			c.h.log.Warn("a routing rule takes a part of what is captured past the TUN", "rule", text,
				"mend", fmt.Sprint("unless that is meant, add it again with a priority above ", c.h.slot.base()+bandSize-1))
		}
	}
	c.detoured = found
}

// detours finds the rules that are asked before ours and send a part of what is
// captured elsewhere: one port, user, protocol, destination or mark. They may be
// meant so. It asks the kernel, for each rule before ours, where a flow goes for which
// the rule is meant. It returns the rules that lead one elsewhere, as text.
func (c *capture) detours() (map[string]bool, error) {
	found := make(map[string]bool)
	for _, f := range c.h.families {
		rules, err := c.h.rulesBefore(f)
		if err != nil {
			return nil, err
		}
		connected, err := c.connected(f)
		if err != nil {
			return nil, err
		}
		plan := planTable(f, c.h.cfg.Routes, c.h.cfg.Excludes, connected)
		if len(plan.device) == 0 {
			continue
		}
		var inside []netip.Addr
		for _, p := range plan.device[:min(len(plan.device), maxDetourPrefixes)] {
			inside = append(inside, plan.inside(p)...)
		}
		for i := range rules[:min(len(rules), maxDetourRules)] {
			for _, q := range c.flowsFor(&rules[i], plan, inside) {
				way, err := c.h.lookUp(q)
				if err == nil && way.link == c.h.index {
					continue
				}
				if r := blame(rules, c.h.slot.base(), q, way, err); r != nil {
					prefix := "ip " + flag6(r.Family) + "rule "
					found[prefix+ruleText(r)] = true
				}
			}
		}
	}
	return found, nil
}

// flowsFor returns, for each protocol, a captured flow that a rule is for, if there
// is one. Inside are captured addresses of any kind. It tries flows with what the rule asks for, and flows without, which an
// inverted rule is for.
func (c *capture) flowsFor(r *netlink.Rule, plan tablePlan, inside []netip.Addr) []newFlow {
	with := newFlow{mark: r.Mark, tos: uint8(r.Tos)}
	if r.Sport != nil {
		with.sport = max(1, r.Sport.Start)
	}
	if r.Dport != nil {
		with.dport = max(1, r.Dport.Start)
	}
	destinations, users := append(plan.destinations(r), inside...), c.users(r)
	first := func(proto int) (newFlow, bool) {
		for _, dst := range destinations {
			for _, uid := range users {
				for _, q := range []newFlow{with, {}} {
					q.proto, q.dst, q.uid = proto, dst, uid
					if q.mark != c.h.mark && ruleMatches(r, q) {
						return q, true
					}
				}
			}
		}
		return newFlow{}, false
	}
	var flows []newFlow
	for _, proto := range []int{protoTCP, protoUDP} {
		if q, ok := first(proto); ok {
			flows = append(flows, q)
		}
	}
	return flows
}

// destinations are captured addresses inside a rule's prefix.
func (t tablePlan) destinations(r *netlink.Rule) []netip.Addr {
	var list []netip.Addr
	add := func(a netip.Addr) {
		if a.IsValid() && t.captures(a) {
			list = append(list, a)
		}
	}
	if r.Dst != nil {
		p := fromIPNet(r.Dst, familyOf(t.device[0]))
		add(p.Addr().Next())
		add(p.Addr())
		add(lastOf(p))
	}
	return list
}

// users are captured users, in a rule's range and elsewhere.
func (c *capture) users(r *netlink.Rule) []uint32 {
	includes, excludes := c.h.cfg.IncludeUIDs, c.h.cfg.ExcludeUIDs
	var list []uint32
	if uid, ok := capturedUID(includes, excludes); ok {
		list = append(list, uid)
	}
	if r.UIDRange == nil {
		return list
	}
	candidates := []uint32{r.UIDRange.Start, r.UIDRange.End, r.UIDRange.End + 1}
	for _, x := range includes {
		candidates = append(candidates, x.First, x.Last)
	}
	for _, x := range excludes {
		candidates = append(candidates, x.Last+1)
	}
	for _, uid := range candidates {
		if capturesUID(includes, excludes, uid) {
			list = append(list, uid)
		}
	}
	return list
}
