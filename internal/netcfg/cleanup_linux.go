package netcfg

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Cleanup removes the rules and routes that killed daemons left in this network
// namespace and returns how many there were. Those of running ones stay.
func Cleanup() (int, error) {
	h, err := openHandle()
	if err != nil {
		return 0, fmt.Errorf("netcfg: %w", err)
	}
	defer h.Close()
	n, err := cleanup(h)
	if err != nil {
		return n, fmt.Errorf("netcfg: clean up: %w", permission(err))
	}
	return n, nil
}

func cleanup(h *netlink.Handle) (removed int, err error) {
	for n := range maxSlots {
		s, err := claim(n)
		if errors.Is(err, unix.EADDRINUSE) {
			continue
		}
		if err != nil {
			return removed, err
		}
		c, err := s.clean(h)
		removed += c
		if err := errors.Join(err, s.release()); err != nil {
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
	for _, table := range s.tables() {
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
