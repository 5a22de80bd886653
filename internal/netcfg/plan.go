package netcfg

import (
	"net/netip"
	"slices"
)

// family is one of the two address families; they are planned and applied
// separately, since a host may have only one.
type family uint8

const (
	ipv4 family = 4
	ipv6 family = 6
)

func (f family) of(p netip.Prefix) bool { return p.Addr().Is4() == (f == ipv4) }

// neverCaptured are ranges that no default route may take: they mean something
// on one link only, or on this host.
func neverCaptured(f family) []netip.Prefix {
	if f == ipv4 {
		return []netip.Prefix{
			netip.MustParsePrefix("169.254.0.0/16"),     // RFC 3927 §2.6.2: never forwarded
			netip.MustParsePrefix("224.0.0.0/4"),        // multicast
			netip.MustParsePrefix("255.255.255.255/32"), // limited broadcast
		}
	}
	return []netip.Prefix{
		netip.MustParsePrefix("fe80::/10"), // RFC 4291 §2.5.6
		netip.MustParsePrefix("ff00::/8"),
	}
}

// tablePlan is what table T should hold for one family.
type tablePlan struct {
	device []netip.Prefix // into the TUN
	throw  []netip.Prefix // out of T again
}

// planTable computes table T. Connected are the host's directly connected
// subnets, which only a default route leaves out.
func planTable(f family, routes, excludes, connected []netip.Prefix) tablePlan {
	var p tablePlan
	excluded := make(map[netip.Prefix]bool)
	for _, e := range excludes {
		if f.of(e) {
			excluded[e.Masked()] = true
		}
	}
	for _, r := range routes {
		r = r.Masked()
		if !f.of(r) || excluded[r] || slices.Contains(p.device, r) {
			continue
		}
		p.device = append(p.device, r)
	}
	if len(p.device) == 0 {
		return p
	}
	out := slices.Collect(func(yield func(netip.Prefix) bool) {
		for e := range excluded {
			if !yield(e) {
				return
			}
		}
	})
	if hasDefault(f, p.device) {
		out = append(out, neverCaptured(f)...)
		for _, c := range connected {
			if f.of(c) && c.Bits() > 0 {
				out = append(out, c.Masked())
			}
		}
	}
	for _, e := range out {
		if !slices.Contains(p.throw, e) && !slices.Contains(p.device, e) {
			p.throw = append(p.throw, e)
		}
	}
	slices.SortFunc(p.throw, netip.Prefix.Compare)
	return p
}

// LeavesAny reports whether anything of the routes of IPv4, or else of IPv6, is
// left to capture by the excludes.
func LeavesAny(routes, excludes []netip.Prefix, v4 bool) bool {
	f := ipv6
	if v4 {
		f = ipv4
	}
	return len(planTable(f, routes, excludes, nil).ranges()) > 0
}

// inside returns addresses whose longest prefix in the table is p, if there are
// some. It tries the ends of p, and what is next to the prefixes within p.
func (t tablePlan) inside(p netip.Prefix) []netip.Addr {
	candidates := append(far(familyOf(p)), p.Addr().Next(), p.Addr(), lastOf(p))
	all := slices.Concat(t.device, t.throw)
	for _, q := range all {
		if q.Bits() > p.Bits() && p.Contains(q.Addr()) {
			candidates = append(candidates, q.Addr().Prev(), lastOf(q).Next())
		}
	}
	return slices.DeleteFunc(candidates, func(a netip.Addr) bool {
		longer := func(q netip.Prefix) bool { return q.Bits() > p.Bits() && q.Contains(a) }
		return !a.IsValid() || !p.Contains(a) || a.IsUnspecified() || a.IsLoopback() || slices.ContainsFunc(all, longer)
	})
}

// lastOf is the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func familyOf(p netip.Prefix) family {
	if p.Addr().Is4() {
		return ipv4
	}
	return ipv6
}

// planDNSTable computes table D, which only port 53 is looked up in. It is T
// without the connected subnets: a nameserver is often on one of them, the
// home's router say, and queries to it would tell it what the rest hides.
func planDNSTable(f family, routes, excludes []netip.Prefix) tablePlan {
	if !hasDefault(f, routes) {
		return tablePlan{}
	}
	return planTable(f, routes, excludes, nil)
}

// rule is one routing rule of ours, without its priority base.
type rule struct {
	offset   int          // from the band's base
	mark     uint32       // fwmark, 0 for any
	iif      string       // incoming interface, "" for any
	from     netip.Prefix // source, invalid for any
	to       netip.Prefix // destination, invalid for any
	uid      *UIDRange    // nil for any
	proto    int          // IP protocol, 0 for any
	port     uint16       // destination port, 0 for any
	not      bool         // invert the selectors
	action   action
	draining bool // keeps captured flows going: removed last
}

const (
	protoTCP = 6
	protoUDP = 17
	portDNS  = 53
)

type action uint8

const (
	toEnd     action = iota // goto END
	toTable                 // lookup T
	toDNS                   // lookup D, which is T for DNS
	toPath                  // lookup P, which is T with the path's MTU
	toDNSPath               // lookup D with the path's MTU
	nop                     // END itself
	toMain                  // lookup main
	prohibit                // refuse
)

// path is the table that says the path's MTU in place of the TUN's.
func (a action) path() action {
	if a == toDNS {
		return toDNSPath
	}
	return toPath
}

const (
	offStack     = 0
	offShield    = 1
	offMark      = 5
	offFromTUN   = 10
	offTUNSource = 20
	offForwarded = 30
	offBound     = 40
	offExclude   = 50
	offDNS       = 60
	offCapture   = 70
	offDissect   = 98
	offEnd       = 99

	bandSize = 100
)

// planRules lists the rules of one family in the order in which to add them:
// the ones that capture come last, so that there is never a moment in which our
// own traffic or an open connection could be captured.
func planRules(f family, link string, mark uint32, tunAddrs []netip.Prefix, cfg Config) []rule {
	rules := []rule{
		{offset: offEnd, action: nop},
		// The kernel looks for the protocol of a packet that a filter made it route
		// again only if some rule asks for it on any interface.
		{offset: offDissect, proto: protoTCP, action: nop},
		{offset: offFromTUN, iif: link, action: toEnd, draining: true},
	}
	if mark != 0 {
		rules = append(rules, rule{offset: offMark, mark: mark, action: toEnd, draining: true})
	}
	if f == ipv4 {
		unset := netip.PrefixFrom(netip.IPv4Unspecified(), 32)
		rules = append(rules, rule{offset: offBound, from: unset, not: true, action: toEnd})
	} else {
		rules = append(rules,
			rule{offset: offBound, from: netip.MustParsePrefix("::/1"), action: toEnd},
			rule{offset: offBound, from: netip.MustParsePrefix("8000::/1"), action: toEnd})
	}
	for _, r := range cfg.ExcludeUIDs {
		rules = append(rules, rule{offset: offExclude, uid: &r, action: toEnd})
	}
	for _, a := range tunAddrs {
		if f.of(a) {
			host := netip.PrefixFrom(a.Addr(), a.Addr().BitLen())
			to := toTable
			if hasDefault(f, cfg.Routes) {
				to = toDNS // that has it all, connected nameservers too
			}
			rules = append(rules,
				rule{offset: offTUNSource, iif: "lo", from: host, proto: protoTCP, action: to, draining: true},
				rule{offset: offTUNSource + 1, iif: "lo", from: host, action: to.path(), draining: true})
		}
	}
	if cfg.Gateway {
		rules = append(rules, rule{offset: offForwarded, iif: "lo", not: true, action: toTable, draining: true})
	}
	for _, uid := range users(cfg.IncludeUIDs) {
		if hasDefault(f, cfg.Routes) {
			rules = append(rules,
				rule{offset: offDNS, iif: "lo", uid: uid, proto: protoUDP, port: portDNS, action: toDNSPath},
				rule{offset: offDNS, iif: "lo", uid: uid, proto: protoTCP, port: portDNS, action: toDNS})
		}
		rules = append(rules,
			rule{offset: offCapture, iif: "lo", uid: uid, proto: protoTCP, action: toTable},
			rule{offset: offCapture + 1, iif: "lo", uid: uid, action: toPath})
	}
	return rules
}

// planShield lists the rules that keep the stack's address for this host: what
// others send to it through this host would look like this host's own once it is
// masqueraded, which happens after it is routed. With cfg.StackEgress the answers
// to the stack's own connections are forwarded to it, so only its services are
// closed then.
func planShield(f family, cfg Config) []rule {
	var rules []rule
	for _, a := range cfg.Addresses {
		if !f.of(a) || cfg.Gateway {
			continue
		}
		stack := netip.PrefixFrom(a.Addr().Next(), a.Addr().BitLen())
		rules = append(rules, rule{offset: offStack, iif: "lo", to: stack, action: toMain})
		if !cfg.StackEgress {
			rules = append(rules, rule{offset: offShield, to: stack, action: prohibit})
			continue
		}
		for _, port := range cfg.StackPorts {
			rules = append(rules,
				rule{offset: offShield, to: stack, proto: protoTCP, port: port, action: prohibit},
				rule{offset: offShield, to: stack, proto: protoUDP, port: port, action: prohibit})
		}
	}
	return rules
}

// users returns one nil, for everyone, if there is no range.
func users(ranges []UIDRange) []*UIDRange {
	if len(ranges) == 0 {
		return []*UIDRange{nil}
	}
	var list []*UIDRange
	for _, r := range ranges {
		list = append(list, &r)
	}
	return list
}

// hasDefault reports whether everything of a family is captured.
func hasDefault(f family, routes []netip.Prefix) bool {
	return slices.ContainsFunc(routes, func(r netip.Prefix) bool { return f.of(r) && r.Bits() == 0 })
}

// far are addresses that only a default route leads to (RFC 5737; RFC 3849, RFC 9637).
func far(f family) []netip.Addr {
	if f == ipv4 {
		return []netip.Addr{netip.AddrFrom4([4]byte{198, 51, 100, 1}), netip.AddrFrom4([4]byte{203, 0, 113, 1})}
	}
	return []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("3fff::1")}
}

// addrRange is an inclusive range of addresses.
type addrRange struct{ first, last netip.Addr }

// ranges are the addresses that the table sends into the TUN, in order.
func (t tablePlan) ranges() []addrRange {
	all := slices.Concat(t.device, t.throw)
	var edges []netip.Addr // where the longest prefix may change
	for _, p := range all {
		edges = append(edges, p.Addr())
		if next := lastOf(p).Next(); next.IsValid() {
			edges = append(edges, next)
		}
	}
	slices.SortFunc(edges, netip.Addr.Compare)
	edges = slices.Compact(edges)
	var out []addrRange
	for i, first := range edges {
		if !t.captures(first) {
			continue
		}
		last := lastOf(netip.PrefixFrom(first, 0))
		if i+1 < len(edges) {
			last = edges[i+1].Prev()
		}
		if n := len(out); n > 0 && out[n-1].last.Next() == first {
			out[n-1].last = last
			continue
		}
		out = append(out, addrRange{first, last})
	}
	return out
}

// captures reports whether the longest prefix of an address leads into the TUN.
func (t tablePlan) captures(a netip.Addr) bool {
	longest := func(list []netip.Prefix) int {
		bits := -1
		for _, p := range list {
			if p.Contains(a) {
				bits = max(bits, p.Bits())
			}
		}
		return bits
	}
	return longest(t.device) > longest(t.throw)
}
