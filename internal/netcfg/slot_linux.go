package netcfg

import (
	"errors"
	"fmt"
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
// rule priorities. The socket keeps it for as long as the process lives.
type slot struct {
	n  int
	fd int
}

func (s slot) table() int        { return firstTable + s.n }
func (s slot) dnsTable() int     { return firstTable + maxSlots + s.n }
func (s slot) pathTable() int    { return firstTable + 2*maxSlots + s.n }
func (s slot) dnsPathTable() int { return firstTable + 3*maxSlots + s.n }
func (s slot) base() int         { return firstBand + s.n*bandSize }

func (s slot) tables() []int {
	return []int{s.table(), s.dnsTable(), s.pathTable(), s.dnsPathTable()}
}

// claim takes slot n, or returns an error that wraps EADDRINUSE if a living
// process of this network namespace has it.
func claim(n int) (slot, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return slot{}, fmt.Errorf("socket: %w", err)
	}
	// A leading @ is the abstract namespace (unix(7)): no file, so nothing
	// that a crash could leave.
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("@netstackd/capture/%d", n)}); err != nil {
		unix.Close(fd)
		return slot{}, fmt.Errorf("bind: %w", err)
	}
	return slot{n: n, fd: fd}, nil
}

func (s slot) release() error { return unix.Close(s.fd) }

// acquire takes the first slot whose numbers nobody uses.
func acquire(h *netlink.Handle) (slot, error) {
	var why error
	for n := range maxSlots {
		s, err := claim(n)
		if errors.Is(err, unix.EADDRINUSE) {
			why = errors.Join(why, fmt.Errorf("slot %d: another netstackd runs", n))
			continue
		}
		if err != nil {
			return slot{}, err
		}
		err = s.conflict(h)
		if err == nil {
			return s, nil
		}
		s.release()
		why = errors.Join(why, fmt.Errorf("slot %d: %w", n, err))
	}
	return slot{}, fmt.Errorf("no free routing table and rule priorities: %w", why)
}

// conflict says who else uses the slot's numbers.
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

// chooseMark returns a mark that no rule of anybody matches.
func chooseMark(rules []netlink.Rule, n int) (uint32, error) {
	for i := range uint32(256) {
		m := firstMark + uint32(n) + i*maxSlots
		if !markUsed(rules, m) {
			return m, nil
		}
	}
	return 0, errors.New("every mark from 0x198 is matched by some rule (ip rule): choose one with --fwmark")
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
