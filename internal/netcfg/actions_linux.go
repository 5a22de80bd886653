package netcfg

import (
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// rulesBefore returns the rules of a family that the kernel asks before ours, in
// its order. The caller holds h.mu.
func (h *Host) rulesBefore(f family) ([]netlink.Rule, error) {
	all, err := listRules(h.nl)
	if err != nil {
		return nil, err
	}
	var rules []netlink.Rule
	for _, r := range all {
		if r.Family == f.nl() && r.Priority != 0 && r.Priority < h.slot.base() {
			rules = append(rules, r)
		}
	}
	return rules, h.readActions(f, rules)
}

// readActions sets the Type of rules, which package netlink does not read: what a
// rule does that leads to no table, such as blackhole. The kernel lists rules of
// one priority in the order in which they were added, in each dump.
func (h *Host) readActions(f family, rules []netlink.Rule) error {
	actions, err := retryDump(func() ([]ruleAction, error) { return h.dumpActions(f) })
	if err != nil {
		return err
	}
	for i := range rules {
		for j, a := range actions {
			if a.priority == rules[i].Priority {
				rules[i].Type = a.action
				actions = actions[j+1:]
				break
			}
		}
	}
	return nil
}

// ruleAction is one of FR_ACT_… of linux/fib_rules.h.
type ruleAction struct {
	priority int
	action   uint8
}

func (h *Host) dumpActions(f family) ([]ruleAction, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETRULE, unix.NLM_F_DUMP|unix.NLM_F_REQUEST)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: h.lookups}
	req.AddData(nl.NewIfInfomsg(f.nl()))
	answers, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWRULE)
	var list []ruleAction
	for _, answer := range answers {
		if len(answer) < unix.SizeofRtMsg || nl.DeserializeRtMsg(answer).Family != uint8(f.nl()) {
			continue
		}
		a := ruleAction{action: nl.DeserializeRtMsg(answer).Type}
		attrs, err := nl.ParseRouteAttr(answer[unix.SizeofRtMsg:])
		if err != nil {
			return nil, err
		}
		for _, attr := range attrs {
			if attr.Attr.Type == nl.FRA_PRIORITY && len(attr.Value) == 4 {
				a.priority = int(nl.NativeEndian().Uint32(attr.Value))
			}
		}
		list = append(list, a)
	}
	return list, err
}
