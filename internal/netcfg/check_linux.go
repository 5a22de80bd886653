package netcfg

import (
	"errors"
	"fmt"
	"io/fs"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"netstackd/internal/sysctl"
)

// reversePathStrict is the value of rp_filter that drops a packet unless its
// source would be answered by the interface it came in on (RFC 3704 §2.2).
const (
	reversePathStrict = 1
	reversePathLoose  = 2 // the source must be routed by some interface
)

// checkReversePath finds the one case that no rule of ours mends: outbound
// sockets bound to an interface that the host itself would not choose, so that
// strict reverse-path filtering eats every answer.
func checkReversePath(h *netlink.Handle, iface string) error {
	if iface == "" {
		return nil
	}
	link, err := h.LinkByName(iface)
	if err != nil {
		return fieldError("Interface", "interface %s: %w (`ip link` lists them)", iface, err)
	}
	strict, err := reversePathMode(iface)
	if err != nil || strict != reversePathStrict {
		return err
	}
	addrs, err := h.AddrList(link, netlink.FAMILY_V4)
	if err != nil || len(addrs) == 0 {
		return err // without an address nothing can be answered
	}
	// The kernel's own question, for any far address (RFC 5737): by which way
	// would the interface's address answer it?
	routes, err := h.RouteGetWithOptions(net.IPv4(198, 51, 100, 1), &netlink.RouteGetOptions{SrcAddr: addrs[0].IP})
	if errors.Is(err, unix.ENETUNREACH) {
		return nil // no default route: nothing but connected subnets, which pass
	}
	if err != nil {
		return fmt.Errorf("look up the default route: %w", err)
	}
	for _, r := range routes {
		if r.LinkIndex == link.Attrs().Index {
			return nil
		}
	}
	return fieldError("Interface", "interface %s: rp_filter=1 would drop the answers that come in there, since the host's own "+
		"way out is another: sysctl -w net.ipv4.conf.%s.rp_filter=2", iface, iface)
}

// reversePathMode is the effective rp_filter of an interface: the larger of its
// own and that of "all" (ip-sysctl.rst).
func reversePathMode(iface string) (int, error) {
	all, err := sysctl.Int("net/ipv4/conf/all/rp_filter")
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	own, err := sysctl.Int("net/ipv4/conf/" + iface + "/rp_filter")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	return max(all, own), nil
}

// relaxReversePath lets the TUN deliver what far hosts answer to forwarded
// flows where reverse-path filtering is strict: the host itself would answer
// those sources by another interface. The setting is the TUN's own and goes with
// it; 2 (loose) is the larger one and so overrides a strict "all".
func (h *Host) relaxReversePath() error {
	mode, err := reversePathMode(h.link)
	if err != nil || mode != reversePathStrict {
		return err
	}
	name := "net/ipv4/conf/" + h.link + "/rp_filter"
	old, err := sysctl.Int(name)
	if err != nil {
		return err
	}
	if err := setLink(name, reversePathLoose); err != nil {
		return err
	}
	h.push(func() error { return setLink(name, old) })
	return nil
}
