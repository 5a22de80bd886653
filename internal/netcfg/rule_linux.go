package netcfg

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// netlinkRule is r as the kernel takes it.
func (r rule) netlinkRule(f family, s slot) *netlink.Rule {
	n := netlink.NewRule()
	n.Family = f.nl()
	n.Priority = s.base() + r.offset
	n.Protocol = Protocol
	n.Invert = r.not
	n.IifName = r.iif
	if r.mark != 0 {
		mask := ^uint32(0)
		n.Mark, n.Mask = r.mark, &mask
	}
	if r.from.IsValid() {
		n.Src = toIPNet(r.from)
	}
	if r.uid != nil {
		n.UIDRange = netlink.NewRuleUIDRange(r.uid.First, r.uid.Last)
	}
	n.IPProto = r.proto
	if r.port != 0 {
		n.Dport = netlink.NewRulePortRange(r.port, r.port)
	}
	switch r.action {
	case toTable:
		n.Table = s.table()
	case toDNS:
		n.Table = s.dnsTable()
	case toPath:
		n.Table = s.pathTable()
	case toDNSPath:
		n.Table = s.dnsPathTable()
	case toEnd:
		n.Goto = s.base() + offEnd
	case nop:
		n.Type = frActNop
	}
	return n
}

// addRule adds r. One that is there already is fine: after somebody flushed
// some of them all are added again.
func addRule(h *netlink.Handle, r *netlink.Rule) error {
	if err := h.RuleAdd(r); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add rule %d: %w", r.Priority, err)
	}
	return nil
}

func deleteRule(h *netlink.Handle, r *netlink.Rule) error {
	if err := h.RuleDel(r); err != nil && !gone(err) {
		return fmt.Errorf("remove rule %d: %w", r.Priority, err)
	}
	return nil
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
