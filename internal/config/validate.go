package config

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"netstackd/internal/netcfg"
)

// UsageError is a mistake on the command line or in the configuration file.
// The command exits with status 2 for it.
type UsageError struct {
	Option string // the flag's name without dashes
	Detail string // what is wrong and the mend, in one line
}

// Error names the flag first.
func (e *UsageError) Error() string { return "--" + e.Option + ": " + e.Detail }

func usagef(option, format string, args ...any) error {
	return &UsageError{Option: option, Detail: fmt.Sprintf(format, args...)}
}

// maxInterfaceName is IFNAMSIZ less the terminating NUL (linux/if.h).
const maxInterfaceName = 15

// Validate checks what no single flag can know. Each error is a *UsageError
// that names the flag and the mend; the first one found is returned.
func (c Config) Validate() error {
	for _, check := range []func() error{
		c.validateTUN, c.validateAddress, c.validateRoute, c.validateSOCKS, c.validateLimits,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (c Config) validateTUN() error {
	if c.TUNFd >= 0 && c.Queues > 1 {
		return usagef("queues", "an adopted --tun-fd is one queue; leave --queues out")
	}
	low := 1280 // RFC 8200 §5
	if c.NoIPv6 {
		low = 576 // RFC 791 §3.1
	}
	if c.MTU != 0 && (c.MTU < low || c.MTU > 65535) {
		if c.MTU >= 576 && c.MTU < low {
			return usagef("mtu", "%d is too small for IPv6; use %d or more, or add --no-ipv6", c.MTU, low)
		}
		return usagef("mtu", "%d is out of range; use %d to 65535", c.MTU, low)
	}
	return nil
}

func (c Config) validateAddress() error {
	var v4, v6 int
	for _, p := range c.Address {
		if p.Addr().Is4() {
			v4++
		} else {
			v6++
		}
		next := StackAddr(p)
		if !p.Contains(next) || p.Addr().Is4() && p.Bits() < 31 && next == last(p) {
			return usagef("address", "%s leaves no next address for the stack; use a wider prefix, such as %s/%d",
				p, p.Masked().Addr().Next(), min(p.Bits(), p.Addr().BitLen()-2))
		}
	}
	switch {
	case len(c.Address) == 0:
		return usagef("address", "none given; the TUN needs one, such as 198.18.0.1/30")
	case v4 > 1:
		return usagef("address", "given twice for IPv4; give one of each family")
	case v6 > 1:
		return usagef("address", "given twice for IPv6; give one of each family")
	case c.NoIPv6 && v4 == 0:
		return usagef("address", "only an IPv6 address with --no-ipv6; add an IPv4 one, such as 198.18.0.1/30")
	}
	return nil
}

// last is the last address of an IPv4 prefix: its broadcast address.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}

func (c Config) validateRoute() error {
	if !c.RouteDefault && len(c.Route) == 0 {
		for _, o := range []struct {
			name string
			set  bool
		}{
			{"exclude", len(c.Exclude) > 0},
			{"include-uid", len(c.IncludeUID) > 0},
			{"exclude-uid", len(c.ExcludeUID) > 0},
			{"exclude-cgroup", len(c.ExcludeCgroup) > 0},
		} {
			if o.set {
				return usagef(o.name, "narrows what --route captures, and there is none; add --route")
			}
		}
		if c.Strict != netcfg.StrictOff {
			return usagef("strict", "refuses what goes around --route, and there is none; add --route")
		}
	}
	if routes := c.Routes(); len(routes) > 0 && !netcfg.LeavesAny(routes, c.Exclude, true) && !netcfg.LeavesAny(routes, c.Exclude, false) {
		return usagef("exclude", "leaves nothing of --route to capture; remove one of them")
	}
	for _, p := range c.Route {
		for _, a := range c.Address {
			if p.Addr().Is4() == a.Addr().Is4() && p.Contains(a.Addr()) && p.Bits() >= a.Bits() {
				return usagef("route", "%s holds the TUN's own address %s; choose another --address", p, a.Addr())
			}
		}
	}
	return nil
}

func (c Config) validateSOCKS() error {
	closed := len(c.Auth) > 0 || c.AuthFile != ""
	seen := map[string]bool{}
	for _, addr := range c.SOCKS {
		if _, port, _ := net.SplitHostPort(addr); port != "0" && seen[addr] {
			return usagef("socks", "%s given twice", addr)
		}
		seen[addr] = true
		if !closed && !c.AllowOpen && !loopback(addr) {
			return usagef("socks", "%s would be an open proxy for the network; add --auth USER:PASS, or --allow-open if that is meant", addr)
		}
	}
	if c.SOCKSEgress == EgressStack && len(c.Via) > 0 {
		return usagef("socks-egress", "stack and --via exclude each other: the stack's packets leave by the TUN; drop one")
	}
	return nil
}

// loopback reports whether only this host can reach a listener on addr.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

func (c Config) validateLimits() error {
	if c.DialTimeout <= 0 {
		return usagef("dial-timeout", "%s is no time at all; use 10s", c.DialTimeout)
	}
	if c.UDPTimeout <= 0 {
		return usagef("udp-timeout", "%s is no time at all; use 5m", c.UDPTimeout)
	}
	if c.Drain < 0 {
		return usagef("drain", "%s is negative; use 0s to cut flows at once", c.Drain)
	}
	const least = 1 << 20
	if c.MaxMemory != 0 && c.MaxMemory < least {
		return usagef("max-memory", "%d bytes carry no flow; use %s or more", c.MaxMemory, strconv.Itoa(least))
	}
	return nil
}
