package doctor

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"netstackd/internal/netcfg"
	"netstackd/internal/resolvconf"
	"netstackd/internal/sysctl"
)

// checkNetwork looks at addresses, routes and rules.
func checkNetwork(ctx context.Context) []Check {
	in, err := netcfg.Inspect()
	if err != nil {
		return []Check{fail("netlink", err.Error(), "# this kernel or container has no rtnetlink")}
	}
	defer in.Close()
	return []Check{
		checkRules(in), checkLeftover(in), checkReversePath(in), checkMTU(in), checkFirewall(in), checkIPv6(in), checkDNS(ctx),
	}
}

// checkRules looks for rules that decide before ours would.
func checkRules(in *netcfg.Inspector) Check {
	const name = "routing rules"
	rules, err := in.Rules()
	if err != nil {
		return fail(name, err.Error(), "# policy routing is needed: CONFIG_IP_MULTIPLE_TABLES, CONFIG_IPV6_MULTIPLE_TABLES")
	}
	for _, r := range rules {
		if r.Priority > 0 && r.Priority < netcfg.FirstPriority {
			ip := "ip"
			if r.IPv6 {
				ip = "ip -6"
			}
			return warn(name, fmt.Sprintf("rule %d comes before ours: what it matches is not captured", r.Priority),
				fmt.Sprintf("%s rule show pref %d", ip, r.Priority))
		}
	}
	if !sysctl.Exists("net/ipv6") || slices.ContainsFunc(rules, func(r netcfg.Rule) bool { return r.IPv6 }) {
		return pass(name, "none before ours")
	}
	return fail(name, "no IPv6 policy routing: a capture would leak IPv6", "# use a kernel with CONFIG_IPV6_MULTIPLE_TABLES")
}

// checkLeftover counts what a killed daemon left.
func checkLeftover(in *netcfg.Inspector) Check {
	const name = "left over"
	n, err := in.LeftOver()
	switch {
	case err != nil:
		return warn(name, err.Error(), "ip rule")
	case n > 0:
		return warn(name, fmt.Sprintf("%d rules of a killed daemon; they do nothing", n), "netstackd cleanup")
	}
	return pass(name, "nothing of a killed daemon")
}

func checkReversePath(in *netcfg.Inspector) Check {
	const name = "rp_filter"
	up, _ := in.Uplink(false)
	strict, err := netcfg.StrictReversePath(up.Interface)
	switch {
	case err != nil:
		return warn(name, err.Error(), "sysctl net.ipv4.conf.all.rp_filter")
	case strict:
		return pass(name, "strict: fine, unless --interface names another than "+up.Interface)
	}
	return pass(name, "not strict")
}

// minimumMTU is what IPv6 needs of a link (RFC 8200 §5).
const minimumMTU = 1280

func checkMTU(in *netcfg.Inspector) Check {
	const name = "mtu"
	var found []string
	for _, v6 := range []bool{false, true} {
		up, _ := in.Uplink(v6)
		if up.Interface == "" {
			continue
		}
		if up.MTU < minimumMTU {
			return warn(name, fmt.Sprintf("%s has %d: IPv6 needs %d", up.Interface, up.MTU, minimumMTU), "ip link set "+up.Interface+" mtu 1500")
		}
		if s := fmt.Sprintf("%s has %d", up.Interface, up.MTU); len(found) == 0 || found[0] != s {
			found = append(found, s)
		}
	}
	if len(found) == 0 {
		return warn(name, "no route by a gateway: only connected subnets can be reached", "ip route")
	}
	return pass(name, strings.Join(found, ", "))
}

// checkIPv6 asks whether IPv6 could go past a capture.
func checkIPv6(in *netcfg.Inspector) Check {
	const name = "IPv6 leaks"
	const inherited = "net/ipv6/conf/default/disable_ipv6"
	if !sysctl.Exists("net/ipv6") {
		return pass(name, "this host has no IPv6")
	}
	off, err := sysctl.Int(inherited)
	if err != nil {
		return warn(name, err.Error(), "sysctl net.ipv6.conf.default.disable_ipv6")
	}
	up, _ := in.Uplink(true)
	switch {
	case up.Interface == "":
		return pass(name, "no IPv6 route by a gateway; captured or refused all the same")
	case off == 1 && !sysctl.Writable(inherited):
		return fail(name, "new interfaces get no IPv6 and it can't be switched on for the TUN, yet this host has an IPv6 route",
			"sysctl -w net.ipv6.conf.default.disable_ipv6=0")
	}
	return pass(name, "--route default captures it, or refuses it with --no-ipv6; it leaves by "+up.Interface)
}

// checkDNS asks whether lookups could go past a capture.
func checkDNS(ctx context.Context) Check {
	const name = "DNS leaks"
	conf, err := resolvconf.Read(resolvconf.Path)
	if err != nil {
		return warn(name, err.Error(), "echo nameserver 9.9.9.9 >"+resolvconf.Path)
	}
	var loopback, far []string
	for _, a := range conf.Nameservers {
		switch {
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
	if _, err := os.Stat(resolvconf.ResolvedDir); err != nil {
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
