package netcfg

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// Cleanup removes the rules and routes that killed daemons left in this network
// namespace, and the tables of strict ones, and returns how many there were. Those of running ones stay.
func Cleanup() (int, error) {
	h, err := openHandle()
	if err != nil {
		return 0, fmt.Errorf("netcfg: %w", err)
	}
	defer h.Close()
	n, err := cleanup(h, 0)
	for i := 0; err == nil && i < maxSlots; i++ {
		s, kept := slot{i}, false
		if taken, terr := s.taken(h, 0); terr != nil || taken {
			continue
		}
		if kept, err = s.dropKept(); kept {
			n++
		}
	}
	if err != nil {
		return n, fmt.Errorf("netcfg: clean up: %w", permission(err))
	}
	return n, nil
}

// cleanup leaves the slots alone that living daemons have. The TUN with the index
// own is the caller's, which has none yet.
func cleanup(h *netlink.Handle, own int) (removed int, err error) {
	for n := range maxSlots {
		s := slot{n}
		taken, err := s.taken(h, own)
		if err != nil {
			return removed, err
		}
		if taken {
			continue
		}
		c, err := s.clean(h)
		removed += c
		if err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// clean removes what is ours in the slot's band and table. The rules that
// capture go first, then what keeps others out of them.
func (s slot) clean(h *netlink.Handle) (removed int, err error) {
	rules, err := listRules(h)
	if err != nil {
		return 0, err
	}
	for i := len(rules) - 1; i >= 0; i-- {
		r := rules[i]
		if r.Protocol != Protocol || r.Priority < s.base() || r.Priority >= s.base()+bandSize {
			continue
		}
		if err := h.RuleDel(&r); err != nil && !gone(err) {
			return removed, fmt.Errorf("remove rule %d: %w", r.Priority, err)
		}
		removed++
	}
	for _, table := range append(s.tables(), s.lockTable()) {
		c, err := cleanTable(h, table)
		removed += c
		if err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// cleanTable removes our routes from one table.
func cleanTable(h *netlink.Handle, table int) (removed int, err error) {
	routes, err := listTable(h, netlink.FAMILY_ALL, table)
	if err != nil {
		return 0, err
	}
	for _, r := range routes {
		if r.Protocol != Protocol {
			continue
		}
		if err := h.RouteDel(&r); err != nil && !gone(err) {
			return removed, fmt.Errorf("remove route %s of table %d: %w", r.Dst, table, err)
		}
		removed++
	}
	return removed, nil
}
