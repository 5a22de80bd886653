package main

import (
	"fmt"
	"strings"

	"netstackd/internal/config"
)

// help is a command's manual: one screen, one line a flag.
func help(c command, options []config.Option) string {
	var b strings.Builder
	if c.name == "run" {
		b.WriteString("netstackd: a userspace network stack behind a TUN, with SOCKS on both sides\n\n")
		for _, c := range commands() {
			fmt.Fprintf(&b, "  %-33s %s\n", strings.TrimSpace("netstackd "+c.name+" "+c.args), c.summary)
		}
		b.WriteString("\nflags of run; * may be repeated, defaults in parentheses:\n")
	} else {
		fmt.Fprintf(&b, "%s\n%s\n", strings.TrimSpace("netstackd "+c.name+" "+c.args), c.summary)
		if len(options) > 0 {
			b.WriteString("\nflags; * may be repeated, defaults in parentheses:\n")
		}
	}
	for _, o := range options {
		star := " "
		if o.Repeat {
			star = "*"
		}
		fmt.Fprintf(&b, "%s --%-25s %s\n", star, strings.TrimSpace(o.Name+" "+o.Meta), o.Help)
	}
	if len(options) > 0 {
		fmt.Fprintf(&b, "  --%-25s %s\n", "config FILE", "YAML with the same names; flags override it")
	}
	if c.name == "run" {
		b.WriteString("SOCKS limits, one client: 8192 handshakes, 8192 dials, 16384 flows at once\n")
	}
	return b.String()
}
