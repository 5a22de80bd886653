package netcfg

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"

	"netstackd/internal/sysctl"
)

// Forwarding says in one line what this host lacks to carry packets that come
// out of the TUN on to others, and the commands that mend it; "" if nothing. It
// is for --socks-egress stack, where the stack's own connections leave that
// way, and changes nothing. Like all settings it is of the calling thread's
// network namespace.
func Forwarding(ctx context.Context, link string, addresses []netip.Prefix) string {
	var off, mends []string
	masked := translates(ctx)
	for _, a := range addresses {
		name, setting, table := "IPv4", "net.ipv4.ip_forward", "ip"
		if !a.Addr().Is4() {
			name, setting, table = "IPv6", "net.ipv6.conf.all.forwarding", "ip6"
		}
		on, err := sysctl.Int(strings.ReplaceAll(setting, ".", "/"))
		if err != nil {
			continue // no such family
		}
		if on == 0 {
			off = append(off, name+" forwarding")
			mends = append(mends, "sysctl -w "+setting+"=1")
		}
		if !masked {
			off = append(off, name+" masquerade of "+a.Masked().String())
			mends = append(mends, fmt.Sprintf("nft 'table %s netstackd-nat { chain post { type nat hook postrouting "+
				"priority srcnat; %s saddr %s oifname != \"%s\" masquerade; }; }'", table, table, a.Masked(), link))
		}
	}
	if len(off) == 0 {
		return ""
	}
	return "beyond this host the stack reaches nothing: it needs " + strings.Join(off, ", ") + ": " + strings.Join(mends, "; ")
}

// translates reports whether some rule of this host translates sources. What it
// matches is not looked at: a host that has one was set up on purpose. Without the
// tools to look, it reports true.
func translates(ctx context.Context) bool {
	looked := false
	for _, c := range [][]string{{"nft", "list", "ruleset"}, {"iptables-legacy-save", "-t", "nat"}} {
		out, err := exec.CommandContext(ctx, c[0], c[1:]...).Output()
		if err != nil {
			continue
		}
		looked = true
		for _, word := range []string{"masquerade", "snat to", "MASQUERADE", "-j SNAT"} {
			if strings.Contains(string(out), word) {
				return true
			}
		}
	}
	return !looked
}
