package netcfg

import (
	"errors"
	"fmt"
	"slices"
	"strings"

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
	if r.to.IsValid() {
		n.Dst = toIPNet(r.to)
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
	case toMain:
		n.Table = unix.RT_TABLE_MAIN
	case prohibit:
		n.Type = unix.FR_ACT_PROHIBIT
	case nop:
		n.Type = frActNop
	}
	return n
}

// addRule adds r. It is no error if r is there already: when another program has
// removed some of our rules, all are added again.
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

// syncRules adds those rules of a family that are not there.
func (h *Host) syncRules(f family, rules []rule) error {
	have, err := h.ownRules(f)
	if err != nil {
		return err
	}
	for _, r := range rules {
		n := r.netlinkRule(f, *h.slot)
		if have[keyOf(n)] {
			continue
		}
		if err := addRule(h.nl, n); err != nil {
			return err
		}
		h.log.Debug("rule added", "rule", ruleText(n))
	}
	return nil
}

// deleteRules removes the rules, the last one first.
func (h *Host) deleteRules(f family, rules []rule) error {
	var errs []error
	for _, r := range slices.Backward(rules) {
		errs = append(errs, deleteRule(h.nl, r.netlinkRule(f, *h.slot)))
	}
	return errors.Join(errs...)
}

// ownRules are the rules in our band that are there.
func (h *Host) ownRules(f family) (map[ruleKey]bool, error) {
	list, err := listRules(h.nl)
	if err != nil {
		return nil, err
	}
	have := make(map[ruleKey]bool)
	for _, r := range list {
		base := h.slot.base()
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
	port            uint16
	iif, from, to   string
	uid             UIDRange
}

func keyOf(r *netlink.Rule) ruleKey {
	k := ruleKey{priority: r.Priority, proto: r.IPProto, mark: r.Mark, iif: r.IifName}
	if r.Src != nil {
		k.from = r.Src.String()
	}
	if r.Dst != nil {
		k.to = r.Dst.String()
	}
	if r.Dport != nil {
		k.port = r.Dport.Start
	}
	if r.UIDRange != nil {
		k.uid = UIDRange{r.UIDRange.Start, r.UIDRange.End}
	}
	return k
}

// ruleText is a rule as `ip rule` prints it.
func ruleText(r *netlink.Rule) string {
	b := []string{fmt.Sprintf("%d:", r.Priority)}
	add := func(words ...any) { b = append(b, strings.TrimSuffix(fmt.Sprintln(words...), "\n")) }
	if r.Invert {
		add("not")
	}
	if r.Src != nil {
		add("from", r.Src)
	} else {
		add("from all")
	}
	if r.Dst != nil {
		add("to", r.Dst)
	}
	if r.Mark != 0 || r.Mask != nil && *r.Mask != 0 {
		mark := fmt.Sprintf("%#x", r.Mark)
		if r.Mask != nil && *r.Mask != ^uint32(0) {
			mark += fmt.Sprintf("/%#x", *r.Mask)
		}
		add("fwmark", mark)
	}
	if r.Tos != 0 {
		add("tos", fmt.Sprintf("%#x", r.Tos))
	}
	if r.IifName != "" {
		add("iif", r.IifName)
	}
	if r.OifName != "" {
		add("oif", r.OifName)
	}
	if u := r.UIDRange; u != nil {
		add("uidrange", fmt.Sprintf("%d-%d", u.Start, u.End))
	}
	if r.IPProto != 0 {
		add("ipproto", r.IPProto)
	}
	if r.Sport != nil {
		add("sport", fmt.Sprintf("%d-%d", r.Sport.Start, r.Sport.End))
	}
	if r.Dport != nil {
		add("dport", fmt.Sprintf("%d-%d", r.Dport.Start, r.Dport.End))
	}
	switch {
	case r.Goto > 0:
		add("goto", r.Goto)
	case r.Type == unix.FR_ACT_BLACKHOLE:
		add("blackhole")
	case r.Type == unix.FR_ACT_UNREACHABLE:
		add("unreachable")
	case r.Type == unix.FR_ACT_PROHIBIT:
		add("prohibit")
	case r.Type == frActNop:
		add("nop")
	case r.Table == unix.RT_TABLE_MAIN:
		add("lookup main")
	case r.Table == unix.RT_TABLE_DEFAULT:
		add("lookup default")
	case r.Table > 0:
		add("lookup", r.Table)
	}
	if r.SuppressPrefixlen >= 0 {
		add("suppress_prefixlength", r.SuppressPrefixlen)
	}
	return strings.Join(b, " ")
}
