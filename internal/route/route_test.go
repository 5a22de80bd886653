package route_test

import (
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"netstackd/internal/flow"
	"netstackd/internal/route"
)

var localAddrs = map[netip.Addr]bool{
	netip.MustParseAddr("192.0.2.1"):   true,
	netip.MustParseAddr("198.18.0.1"):  true,
	netip.MustParseAddr("2001:db8::1"): true,
}

func isLocal(a netip.Addr) bool { return localAddrs[a] }

const (
	ours  = "192.0.2.1:40000"  // a source that is this host
	other = "192.0.2.77:40000" // one that is not
)

func meta(in flow.Inbound, network, src, dst string) flow.Meta {
	m := flow.Meta{Inbound: in, Network: network, Source: netip.MustParseAddrPort(src)}
	if a, err := netip.ParseAddrPort(dst); err == nil {
		m.Dest = a
	} else if dst != "" {
		m.Name = dst[:strings.LastIndexByte(dst, ':')]
		m.Dest = netip.AddrPortFrom(netip.Addr{}, 80)
	}
	return m
}

func TestDecide(t *testing.T) {
	base := route.Config{Local: isLocal, Stack: []netip.Addr{netip.MustParseAddr("198.18.0.2"), netip.MustParseAddr("fd19:8::2")}}
	gateway, lan, allow, no6 := base, base, base, base
	gateway.Open = true
	lan.BlockLAN = true
	allow.Allow = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8:5::/48")}
	no6.NoIPv6 = true
	const (
		source   = "own programs"
		own      = "netstackd itself"
		loopback = "loopback"
		local    = "local network"
		listed   = "list"
		ipv6     = "IPv6"
	)
	const (
		tr    = flow.Transparent
		socks = flow.SOCKSHost
		stack = flow.SOCKSStack
		http  = flow.HTTPProxy
	)
	for _, c := range []struct {
		cfg      route.Config
		in       flow.Inbound
		network  string
		src, dst string
		why      string // part of the reason; empty = allowed
	}{
		// Who may use the TUN.
		{base, tr, "tcp", ours, "203.0.113.1:80", ""},
		{base, tr, "udp", other, "203.0.113.1:80", source},
		{base, stack, "tcp", other, "", source},
		{base, stack, "tcp", ours, "", ""},
		{base, socks, "tcp", other, "", ""},
		{gateway, tr, "tcp", other, "203.0.113.1:80", ""},
		{gateway, stack, "tcp", other, "", ""},
		{base, flow.Internal, "udp", other, "127.0.0.53:53", source},
		// Loopback, in every way to write it.
		{base, socks, "tcp", ours, "127.0.0.1:80", ""},
		{base, socks, "tcp", "127.0.0.1:5", "127.0.0.1:80", ""},
		{base, socks, "tcp", "[::ffff:127.0.0.1]:5", "127.0.0.1:80", ""},
		{base, socks, "tcp", other, "127.0.0.1:80", loopback},
		{base, socks, "tcp", other, "127.9.9.9:80", loopback},
		{base, socks, "tcp", other, "0.0.0.0:80", loopback},
		{base, socks, "tcp", other, "[::]:80", loopback},
		{base, socks, "tcp", other, "[::1]:80", loopback},
		{base, socks, "udp", other, "[::ffff:127.0.0.1]:80", loopback},
		{base, socks, "udp", other, "[::1%eth0]:80", loopback},
		{base, socks, "udp", other, "[64:ff9b::7f00:1]:80", loopback},
		{base, http, "tcp", other, "localhost:80", loopback},
		{base, http, "tcp", other, "LOCALHOST.:80", loopback},
		{base, http, "tcp", other, "www.localhost:80", loopback},
		{base, http, "tcp", other, "127.1:80", loopback},
		{base, http, "tcp", other, "0x7f000001:80", loopback},
		{base, http, "tcp", other, "0177.0.0.1:80", loopback},
		{base, http, "tcp", other, "0:80", loopback},
		{base, http, "tcp", other, "localhost.example:80", ""},
		{base, http, "tcp", other, "7.example:80", ""},
		{base, http, "tcp", other, "1.2.3.4.5:80", ""},
		{gateway, tr, "udp", other, "127.0.0.53:53", loopback},
		{gateway, flow.Internal, "udp", other, "127.0.0.53:53", ""},
		// Our own listeners, for everybody.
		{base, socks, "tcp", ours, "198.18.0.2:1080", own},
		{base, socks, "udp", ours, "198.18.0.2:53", own},
		{gateway, stack, "tcp", other, "[fd19:8::2]:1080", own},
		{base, socks, "tcp", ours, "127.0.0.1:1080", own},
		{base, socks, "tcp", ours, "0.0.0.0:1080", own},
		{base, socks, "tcp", ours, "localhost:80", ""},
		{base, socks, "tcp", ours, "127.0.0.2:1080", ""},
		{base, socks, "udp", ours, "127.0.0.1:1080", ""},
		{base, socks, "udp", other, "192.0.2.1:2000", own}, // an association's
		{base, socks, "udp", other, "192.0.2.1:2001", ""},
		{base, socks, "tcp", ours, "192.0.2.1:2000", ""},
		{base, socks, "tcp", ours, "192.0.2.1:1081", own}, // by the wildcard
		{base, socks, "tcp", ours, "[2001:db8::1]:1081", own},
		{base, socks, "tcp", ours, "192.0.2.77:1081", ""},
		{base, flow.Internal, "tcp", "127.0.0.1:1", "127.0.0.1:1080", own},
		{base, flow.Internal, "udp", ours, "198.18.0.2:53", own},
		{base, flow.Published, "tcp", other, "127.0.0.1:80", ""},
		{base, flow.Published, "tcp", other, "127.0.0.1:1080", ""}, // of the sandbox, not of this host
		// Local networks.
		{lan, tr, "tcp", ours, "203.0.113.1:80", ""},
		{lan, tr, "tcp", ours, "10.1.2.3:80", local},
		{lan, socks, "tcp", ours, "fe80::1%eth0:80", local},
		{lan, socks, "tcp", ours, "[fe80::1%eth0]:80", local},
		{lan, socks, "tcp", ours, "[64:ff9b::10.1.2.3]:80", local},
		{lan, socks, "tcp", ours, "[64:ff9b::203.0.113.1]:80", ""},
		{lan, socks, "tcp", ours, "[64:ff9b:1::10.1.2.3]:80", local},
		{lan, socks, "tcp", ours, "[64:ff9b:1::203.0.113.1]:80", ""},
		{lan, socks, "tcp", ours, "[64:ff9b:1:cb00:71::1]:80", local}, // in no known form
		{lan, socks, "tcp", ours, "[2002:a01:203::1]:80", local},
		{lan, socks, "tcp", ours, "[2002:cb00:7101::1]:80", ""},
		{lan, socks, "tcp", ours, "[2001:0:cb00:7101::f5fe:fdfc]:80", local}, // Teredo, of 10.1.2.3
		{lan, socks, "tcp", ours, "[::10.1.2.3]:80", local},
		{lan, socks, "tcp", ours, "[::ffff:10.1.2.3]:80", local},
		// The list of allowed ones.
		{allow, tr, "tcp", ours, "203.0.113.1:80", ""},
		{allow, tr, "tcp", ours, "198.51.100.1:80", listed},
		{allow, socks, "tcp", ours, "[2001:db8:5::2%eth0]:80", ""},
		{allow, socks, "tcp", ours, "[2001:db8:6::2%eth0]:80", listed},
		{allow, socks, "tcp", ours, "[64:ff9b::203.0.113.1]:80", ""},
		{allow, socks, "tcp", ours, "[64:ff9b::198.51.100.1]:80", listed},
		{allow, socks, "tcp", ours, "[2002:cb00:7101::1]:80", listed}, // a tunnel's end is allowed, not what is behind
		{allow, socks, "tcp", ours, "www.example:80", ""},             // its addresses are judged
		{no6, tr, "tcp", ours, "[2001:db8:5::2]:80", ipv6},
		{no6, tr, "tcp", ours, "203.0.113.1:80", ""},
	} {
		table := route.New(c.cfg)
		table.SetListeners([]netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1080"), netip.MustParseAddrPort("[::]:1081")},
			func(a netip.AddrPort) bool { return a == netip.MustParseAddrPort("192.0.2.1:2000") })
		m := meta(c.in, c.network, c.src, c.dst)
		d := table.Decide(&m)
		if d.Allowed() != (c.why == "") || !strings.Contains(d.Reason, c.why) {
			t.Errorf("%v %s %s to %s: %q, want %q", c.in, c.network, c.src, c.dst, d.Reason, c.why)
		}
		err := table.Permit(&m)
		if (err == nil) != d.Allowed() || err != nil && !errors.Is(err, syscall.EACCES) {
			t.Errorf("%s to %s: error %v", c.src, c.dst, err)
		}
		if n := testing.AllocsPerRun(100, func() { table.Decide(&m) }); n > 0 && m.Name == "" {
			t.Errorf("%s to %s: %v allocations", c.src, c.dst, n)
		}
	}
}

// A name is allowed until its addresses are known, and they decide then.
func TestPermitAddr(t *testing.T) {
	table := route.New(route.Config{Local: isLocal})
	m := meta(flow.SOCKSHost, "tcp", other, "www.example:80")
	if err := table.Permit(&m); err != nil {
		t.Fatal(err)
	}
	before := m
	if err := table.PermitAddr(&m, netip.MustParseAddrPort("127.0.0.1:80")); !errors.Is(err, syscall.EACCES) {
		t.Errorf("loopback: %v", err)
	}
	if err := table.PermitAddr(&m, netip.MustParseAddrPort("203.0.113.1:80")); err != nil {
		t.Error(err)
	}
	if m != before {
		t.Errorf("the flow was changed to %+v", m)
	}
}

// Where the upstream that looks names up is on this host, a name of another host's
// client is judged by what it leads to from here.
func TestDecideLookup(t *testing.T) {
	table := route.New(route.Config{Local: isLocal, Open: true, NoIPv6: true,
		Stack: []netip.Addr{netip.MustParseAddr("198.18.0.2")}})
	table.SetListeners([]netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:80")}, nil)
	names := map[string][]netip.Addr{
		"public.example":  {netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8:5::1")},
		"inside.example":  {netip.MustParseAddr("127.0.0.1")},
		"inside6.example": {netip.MustParseAddr("::ffff:127.0.0.1")},
		"both.example":    {netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("127.0.1.1")},
		"stack.example":   {netip.MustParseAddr("198.18.0.2")},
		"proxy.example":   {netip.MustParseAddr("192.0.2.1")},
	}
	asked := 0
	table.SetLookup(func(name string) []netip.Addr {
		asked++
		return names[name]
	})
	for _, c := range []struct {
		in       flow.Inbound
		src, dst string
		why      string // empty = allowed
		lookups  int
	}{
		{flow.SOCKSHost, other, "public.example:80", "", 1},
		{flow.SOCKSHost, other, "unknown.example:80", "", 1},
		{flow.SOCKSHost, other, "inside.example:80", "loopback", 1},
		{flow.SOCKSStack, other, "inside6.example:80", "loopback", 1},
		{flow.HTTPProxy, other, "both.example:80", "loopback", 1},
		{flow.HTTPProxy, other, "stack.example:80", "netstackd itself", 1},
		{flow.HTTPProxy, other, "proxy.example:80", "netstackd itself", 1},
		{flow.HTTPProxy, other, "localhost:80", "loopback", 0},
		{flow.HTTPProxy, other, "www.LOCALHOST.:80", "loopback", 0},
		{flow.HTTPProxy, other, "203.0.113.1:80", "", 0},
		{flow.HTTPProxy, other, "", "", 0},
		{flow.HTTPProxy, ours, "inside.example:80", "", 0},
		{flow.Internal, other, "inside.example:80", "", 0}, // the way to an upstream
	} {
		asked = 0
		m := meta(c.in, "tcp", c.src, c.dst)
		d := table.Decide(&m)
		if d.Allowed() != (c.why == "") || !strings.Contains(d.Reason, c.why) || asked != c.lookups {
			t.Errorf("%v %s to %s: %q after %d lookups, want %q after %d", c.in, c.src, c.dst, d.Reason, asked, c.why, c.lookups)
		}
	}
}

// The probe of a sandbox reaches its end whatever is allowed.
func TestProbe(t *testing.T) {
	probe := netip.MustParseAddrPort("192.0.2.1:4000")
	table := route.New(route.Config{Open: true, BlockLAN: true, Allow: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")},
		Probe: func(dst netip.AddrPort) bool { return dst == probe }})
	for in, want := range map[flow.Inbound]bool{flow.Transparent: true, flow.SOCKSHost: false} {
		m := meta(in, "tcp", ours, probe.String())
		if d := table.Decide(&m); d.Allowed() != want {
			t.Errorf("%v: %q", in, d.Reason)
		}
	}
}

// A sandboxed command uses the TUN and is neither this host nor another one,
// also where this host has the same subnet.
func TestSandbox(t *testing.T) {
	sandbox := []netip.Prefix{netip.MustParsePrefix("198.18.0.1/30")}
	table := route.New(route.Config{Local: isLocal, Sandbox: sandbox})
	for _, c := range []struct {
		in       flow.Inbound
		src, dst string
		allowed  bool
		remote   bool
	}{
		{flow.Transparent, "198.18.0.1:5", "203.0.113.1:80", true, false},
		{flow.SOCKSStack, "198.18.0.1:5", "127.0.0.1:80", false, false},
		{flow.HTTPProxy, "198.18.0.1:5", "127.0.0.1:80", false, false},
		{flow.SOCKSHost, ours, "127.0.0.1:80", true, false},
		{flow.SOCKSHost, other, "127.0.0.1:80", false, true},
		{flow.Internal, "198.18.0.1:5", "127.0.0.53:53", true, false},
	} {
		m := meta(c.in, "tcp", c.src, c.dst)
		if d := table.Decide(&m); d.Allowed() != c.allowed {
			t.Errorf("%v %s to %s: %q", c.in, c.src, c.dst, d.Reason)
		}
		if table.Remote(m.Source.Addr()) != c.remote {
			t.Errorf("%s is remote: %v", c.src, !c.remote)
		}
	}
}

// What judging one packet costs, under the rules of a gateway and of a sandbox.
func BenchmarkDecide(b *testing.B) {
	m := meta(flow.Transparent, "udp", "198.18.0.1:40000", "203.0.113.1:443")
	for name, cfg := range map[string]route.Config{
		"host":    {Local: isLocal, Stack: []netip.Addr{netip.MustParseAddr("198.18.0.2"), netip.MustParseAddr("fd19:8::2")}},
		"gateway": {Local: isLocal, Open: true},
		"sandbox": {Sandbox: []netip.Prefix{netip.MustParsePrefix("198.18.0.1/30")}, Allow: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}},
	} {
		b.Run(name, func(b *testing.B) {
			table := route.New(cfg)
			b.ReportAllocs()
			for b.Loop() {
				table.Decide(&m)
			}
		})
	}
}
