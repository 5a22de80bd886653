package netcfg

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Protocol is the routing protocol number (RTPROT_*, FRA_PROTOCOL) of every
// rule and route that is ours. /etc/iproute2/rt_protos names no such number.
const Protocol = 198

const (
	maxSlots   = 16
	firstTable = 19808 // 198.18/15, the benchmarking range that the TUN's address is from
	firstBand  = 9800
	firstMark  = 0x198
)

// slot is the set of numbers of one running daemon: its tables and its band of
// rule priorities. A route of its TUN in the slot's lock table keeps it: only a
// process with CAP_NET_ADMIN can make one, no second one can be made, and the
// kernel removes it with the TUN, and so with a killed process.
type slot struct{ n int }

func (s slot) table() int        { return firstTable + s.n }
func (s slot) dnsTable() int     { return firstTable + maxSlots + s.n }
func (s slot) pathTable() int    { return firstTable + 2*maxSlots + s.n }
func (s slot) dnsPathTable() int { return firstTable + 3*maxSlots + s.n }
func (s slot) lockTable() int    { return firstTable + 4*maxSlots + s.n } // no rule leads there
func (s slot) base() int         { return firstBand + s.n*bandSize }

func (s slot) tables() []int {
	return []int{s.table(), s.dnsTable(), s.pathTable(), s.dnsPathTable()}
}

// lock is the route that keeps the slot for a TUN. Its destination (RFC 5737)
// only has to be the same for all.
func (s slot) lock(index int) *netlink.Route {
	return &netlink.Route{
		Table:     s.lockTable(),
		Dst:       toIPNet(netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, 0}), 32)),
		LinkIndex: index,
		Scope:     netlink.SCOPE_LINK,
		Protocol:  Protocol,
	}
}

// claim takes the slot for a TUN, which must be up, or returns an error that
// wraps EEXIST if a daemon of this network namespace has it.
func (s slot) claim(h *netlink.Handle, index int) error {
	if err := h.RouteAdd(s.lock(index)); err != nil {
		return fmt.Errorf("claim routing table %d: %w", s.lockTable(), err)
	}
	return nil
}

// release gives the slot back.
func (s slot) release(h *netlink.Handle, index int) error {
	if err := h.RouteDel(s.lock(index)); err != nil && !gone(err) {
		return fmt.Errorf("release routing table %d: %w", s.lockTable(), err)
	}
	return nil
}

// taken reports whether a living daemon has the slot, with another TUN than own.
// A TUN that outlives its daemon has no carrier.
func (s slot) taken(h *netlink.Handle, own int) (bool, error) {
	routes, err := listTable(h, netlink.FAMILY_V4, s.lockTable())
	if err != nil {
		return false, err
	}
	for _, r := range routes {
		if r.LinkIndex == own {
			continue
		}
		if l, err := h.LinkByIndex(r.LinkIndex); err == nil && l.Attrs().RawFlags&unix.IFF_LOWER_UP != 0 {
			return true, nil
		}
	}
	return false, nil
}

// acquire takes the first slot whose numbers are free, for the TUN.
func acquire(h *netlink.Handle, index int) (slot, error) {
	var why error
	for n := range maxSlots {
		s := slot{n}
		err := s.claim(h, index)
		if errors.Is(err, unix.EEXIST) {
			why = errors.Join(why, fmt.Errorf("slot %d: another netstackd runs", n))
			continue
		}
		if err != nil {
			return slot{}, err
		}
		if err = s.conflict(h); err == nil {
			return s, nil
		}
		why = errors.Join(why, fmt.Errorf("slot %d: %w", n, errors.Join(err, s.release(h, index))))
	}
	return slot{}, fmt.Errorf("no free routing table and rule priorities: %w", why)
}

// conflict returns an error if anything else uses the slot's numbers.
func (s slot) conflict(h *netlink.Handle) error {
	rules, err := listRules(h)
	if err != nil {
		return err
	}
	for _, r := range rules {
		if r.Priority >= s.base() && r.Priority < s.base()+bandSize {
			return fmt.Errorf("rule %d is not ours: ip rule show pref %d", r.Priority, r.Priority)
		}
		if slices.Contains(s.tables(), r.Table) {
			return fmt.Errorf("rule %d uses table %d", r.Priority, r.Table)
		}
	}
	for _, table := range s.tables() {
		routes, err := listTable(h, netlink.FAMILY_ALL, table)
		if err != nil {
			return err
		}
		if len(routes) > 0 {
			return fmt.Errorf("table %d is in use: ip route show table %d", table, table)
		}
	}
	return nil
}

// chooseMark returns a mark that no rule matches.
func chooseMark(rules []netlink.Rule, n int) (uint32, error) {
	for i := range uint32(256) {
		m := firstMark + uint32(n) + i*maxSlots
		if !markUsed(rules, m) {
			return m, nil
		}
	}
	return 0, fieldError("Mark", "every mark from 0x198 is matched by some rule (ip rule): choose another")
}

func markUsed(rules []netlink.Rule, mark uint32) bool {
	for _, r := range rules {
		mask := ^uint32(0)
		if r.Mask != nil {
			mask = *r.Mask
		}
		if r.Mark == 0 && (r.Mask == nil || mask == 0) {
			continue // no mark selector
		}
		if mark&mask == r.Mark {
			return true
		}
	}
	return false
}
