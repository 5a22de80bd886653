package netcfg

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// checkNetwork looks at addresses, routes and rules.
func checkNetwork(ctx context.Context) []Check {
	h, err := openHandle()
	if err != nil {
		return []Check{fail("netlink", err.Error(), "# this kernel or container has no rtnetlink")}
	}
	defer h.Close()
	out := outbound(h, ipv4)
	return []Check{checkRules(h), checkLeftover(h), checkStrict(out), checkMTU(h), checkFirewall(h), checkIPv6(h), checkDNS(ctx)}
}

// uplink is the family's way out of the connected subnets: the default route
// or, without one, the widest route that has a gateway. It reports whether there
// is one.
func uplink(h *netlink.Handle, f family) (netlink.Route, bool) {
	routes, err := listTable(h, f.nl(), unix.RT_TABLE_MAIN)
	if err != nil {
		return netlink.Route{}, false
	}
	routes = slices.DeleteFunc(routes, func(r netlink.Route) bool {
		whole := fromIPNet(r.Dst, f).Bits() == 0
		return r.Type != unix.RTN_UNICAST || !whole && r.Gw == nil && r.Via == nil && len(r.MultiPath) == 0
	})
	if len(routes) == 0 {
		return netlink.Route{}, false
	}
	return slices.MinFunc(routes, func(a, b netlink.Route) int {
		return cmp.Or(cmp.Compare(fromIPNet(a.Dst, f).Bits(), fromIPNet(b.Dst, f).Bits()), cmp.Compare(a.Priority, b.Priority))
	}), true
}

// outbound is the interface of the family's uplink, "" for none.
func outbound(h *netlink.Handle, f family) string {
	best, ok := uplink(h, f)
	if !ok {
		return ""
	}
	index := best.LinkIndex
	if len(best.MultiPath) > 0 {
		index = best.MultiPath[0].LinkIndex
	}
	l, err := h.LinkByIndex(index)
	if err != nil {
		return ""
	}
	return l.Attrs().Name
}

// checkRules looks for rules that decide before ours would.
func checkRules(h *netlink.Handle) Check {
	const name = "routing rules"
	rules, err := listRules(h)
	if err != nil {
		return fail(name, err.Error(), "# policy routing is needed: CONFIG_IP_MULTIPLE_TABLES, CONFIG_IPV6_MULTIPLE_TABLES")
	}
	for _, r := range rules {
		if r.Priority > 0 && r.Priority < firstBand {
			return warn(name, fmt.Sprintf("rule %d comes before ours: what it matches is not captured", r.Priority),
				fmt.Sprintf("ip %srule show pref %d", flag6(r.Family), r.Priority))
		}
	}
	if !sysctlExists("ipv6") {
		return pass(name, "none before ours")
	}
	for _, r := range rules {
		if r.Family == netlink.FAMILY_V6 {
			return pass(name, "none before ours")
		}
	}
	return fail(name, "no IPv6 policy routing: a capture would leak IPv6", "# use a kernel with CONFIG_IPV6_MULTIPLE_TABLES")
}

func flag6(nlFamily int) string {
	if nlFamily == netlink.FAMILY_V6 {
		return "-6 "
	}
	return ""
}

func sysctlExists(name string) bool {
	_, err := os.Stat(sysctlNet + "/" + name)
	return err == nil
}

// checkLeftover counts what a killed daemon left.
func checkLeftover(h *netlink.Handle) Check {
	const name = "left over"
	rules, err := listRules(h)
	if err != nil {
		return warn(name, err.Error(), "ip rule")
	}
	n := 0
	for slotNumber := range maxSlots {
		s := slot{slotNumber}
		if taken, err := s.taken(h, 0); err != nil || taken {
			continue
		}
		for _, r := range rules {
			if r.Protocol == Protocol && r.Priority >= s.base() && r.Priority < s.base()+bandSize {
				n++
			}
		}
	}
	if n > 0 {
		return warn(name, fmt.Sprintf("%d rules of a killed daemon; they do nothing", n), "netstackd cleanup")
	}
	return pass(name, "nothing of a killed daemon")
}

func checkStrict(out string) Check {
	const name = "rp_filter"
	mode, err := reversePathMode(out)
	switch {
	case err != nil:
		return warn(name, err.Error(), "sysctl net.ipv4.conf.all.rp_filter")
	case mode == reversePathStrict:
		return pass(name, "strict: fine, unless --interface names another than "+out)
	}
	return pass(name, "not strict")
}

// minimumMTU is what IPv6 needs of a link (RFC 8200 §5).
const minimumMTU = 1280

func checkMTU(h *netlink.Handle) Check {
	const name = "mtu"
	var found []string
	for _, f := range []family{ipv4, ipv6} {
		out := outbound(h, f)
		l, err := h.LinkByName(out)
		if out == "" || err != nil {
			continue
		}
		if l.Attrs().MTU < minimumMTU {
			return warn(name, fmt.Sprintf("%s has %d: IPv6 needs %d", out, l.Attrs().MTU, minimumMTU), "ip link set "+out+" mtu 1500")
		}
		if s := fmt.Sprintf("%s has %d", out, l.Attrs().MTU); len(found) == 0 || found[0] != s {
			found = append(found, s)
		}
	}
	if len(found) == 0 {
		return warn(name, "no route by a gateway: only connected subnets can be reached", "ip route")
	}
	return pass(name, strings.Join(found, ", "))
}

// checkIPv6 asks whether IPv6 could go past a capture.
func checkIPv6(h *netlink.Handle) Check {
	const name = "IPv6 leaks"
	if !sysctlExists("ipv6") {
		return pass(name, "this host has no IPv6")
	}
	off, err := sysctlInt("ipv6/conf/default/disable_ipv6")
	if err != nil {
		return warn(name, err.Error(), "sysctl net.ipv6.conf.default.disable_ipv6")
	}
	if off == 1 {
		if err := unix.Access(sysctlNet+"/ipv6/conf/default/disable_ipv6", unix.W_OK); err != nil && outbound(h, ipv6) != "" {
			return fail(name, "new interfaces get no IPv6 and it can't be switched on for the TUN, yet this host has an IPv6 route",
				"sysctl -w net.ipv6.conf.default.disable_ipv6=0")
		}
	}
	if out := outbound(h, ipv6); out != "" {
		return pass(name, "--route default captures it, or refuses it with --no-ipv6; it leaves by "+out)
	}
	return pass(name, "no IPv6 route by a gateway; captured or refused all the same")
}

// checkDNS asks whether lookups could go past a capture.
func checkDNS(ctx context.Context) Check {
	const name = "DNS leaks"
	f, err := os.Open("/etc/resolv.conf")
	if err != nil {
		return warn(name, err.Error(), "echo nameserver 9.9.9.9 >/etc/resolv.conf")
	}
	defer f.Close()
	var loopback, far []string
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		a, err := netip.ParseAddr(fields[1])
		switch {
		case err != nil:
			continue
		case a.IsLinkLocalUnicast():
			return warn(name, "nameserver "+a.String()+" is on one link only and can't be captured",
				"# name one by another address in /etc/resolv.conf")
		case a.IsLoopback():
			loopback = append(loopback, a.String())
		default:
			far = append(far, a.String())
		}
	}
	if len(loopback) == 0 {
		return pass(name, "queries to "+strings.Join(far, ", ")+" are captured by --route default, on a connected subnet too")
	}
	if _, err := os.Stat(resolvedDir); err != nil {
		return pass(name, "what the nameserver at "+loopback[0]+" asks is captured by --route default")
	}
	if _, err := exec.LookPath("resolvectl"); err != nil {
		return warn(name, "systemd-resolved runs, and resolvectl, which would tell it of the TUN, is not here",
			"apt-get install systemd-resolved")
	}
	if err := exec.CommandContext(ctx, "resolvectl", "status").Run(); err != nil {
		return warn(name, "systemd-resolved doesn't answer: "+err.Error(), "systemctl restart systemd-resolved")
	}
	return pass(name, "systemd-resolved is told to ask through the TUN")
}
