package netcfg

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The actions of linux/fib_rules.h that netlink has no name for.
const frActNop = 3

// openHandle opens a route netlink socket in this thread's network namespace.
// Everything that a Host does later goes through it, from whatever thread.
func openHandle() (*netlink.Handle, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink socket: %w", err)
	}
	return h, nil
}

// retryDump repeats a dump that changes on the host made inconsistent.
func retryDump[T any](dump func() ([]T, error)) ([]T, error) {
	var list []T
	var err error
	for range 5 {
		if list, err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return list, err
		}
	}
	return list, nil // five changes in a row: the next event brings us back
}

// listRules returns the rules of both families; a family that the kernel
// doesn't have has none.
func listRules(h *netlink.Handle) ([]netlink.Rule, error) {
	var all []netlink.Rule
	for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := retryDump(func() ([]netlink.Rule, error) { return h.RuleList(f) })
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list rules: %w", err)
		}
		for _, r := range rules {
			if r.Family == f { // without IPv6 the kernel may answer for all
				all = append(all, r)
			}
		}
	}
	return all, nil
}

// listTable returns the routes of one table.
func listTable(h *netlink.Handle, nlFamily, table int) ([]netlink.Route, error) {
	routes, err := retryDump(func() ([]netlink.Route, error) {
		return h.RouteListFiltered(nlFamily, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes of table %d: %w", table, err)
	}
	return routes, nil
}

func (f family) nl() int {
	if f == ipv4 {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

// toIPNet converts a prefix; the address keeps its host bits.
func toIPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// fromIPNet converts back; nil is the default route of the family.
func fromIPNet(n *net.IPNet, f family) netip.Prefix {
	if n == nil {
		if f == ipv4 {
			return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		}
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	a, _ := netip.AddrFromSlice(n.IP)
	if f == ipv4 {
		a = a.Unmap()
	}
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a, bits)
}

// gone reports whether err says that what was to be removed is not there.
func gone(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) ||
		errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENXIO) || errors.As(err, &notFound)
}

// permission adds the mend to an error for want of privilege.
func permission(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%w: needs CAP_NET_ADMIN, run as root", err)
	}
	return err
}

// flag6 is the flag with which ip(8) shows a family, and a space.
func flag6(nlFamily int) string {
	if nlFamily == netlink.FAMILY_V6 {
		return "-6 "
	}
	return ""
}
