package config

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"netstackd/internal/netcfg"
	"netstackd/internal/publish"
)

// Command says which of the program's commands take an option.
type Command uint8

// The commands that carry traffic.
const (
	ForRun Command = 1 << iota
	ForExec
)

// Option is one flag and, under the same name, one key of the configuration
// file. The table of them is the only place where either is defined.
type Option struct {
	Name     string  // without dashes
	Meta     string  // what the value is called in the manual; "" for a switch
	Help     string  // one short line, with the default where there is one
	Repeat   bool    // may be given more than once
	Hidden   bool    // not in the manual: for this project's own measurements
	Commands Command // the commands that take it

	set   func(c *Config, value string) error
	clear func(c *Config) // forgets the values of a repeatable option
}

// Setting is one value for an option, from the command line or the file.
type Setting struct {
	Option Option
	Value  string
	None   bool // an empty list: the repeatable option has no value
}

// Check says whether value can be the option's, without setting it.
func (o Option) Check(value string) error {
	var scratch Config
	if err := o.set(&scratch, value); err != nil {
		return usagef(o.Name, "%s", err)
	}
	return nil
}

// Apply sets one source's settings in order. A repeatable option that occurs
// in it replaces what an earlier source or the default gave; two occurrences
// in one source add up. Any error is a *UsageError.
func (c *Config) Apply(settings []Setting) error {
	seen := map[string]bool{}
	for _, s := range settings {
		if s.Option.Repeat && !seen[s.Option.Name] {
			s.Option.clear(c)
		}
		seen[s.Option.Name] = true
		if s.None {
			continue
		}
		if err := s.Option.set(c, s.Value); err != nil {
			return usagef(s.Option.Name, "%s", err)
		}
	}
	return nil
}

// Options is the table, in the order of the manual, for one command.
func Options(cmd Command) []Option {
	const both = ForRun | ForExec
	listens, speaks, rereads, queues := "127.0.0.1:1080", "info", "; SIGHUP rereads it", "one per core"
	if cmd == ForExec {
		listens, speaks, rereads, queues = "off", "warn", "", "one" // SIGHUP is the command's
	}
	all := []Option{
		one("tun", "NAME", "interface name (netstackd0)", ForRun, parseInterface, func(c *Config) *string { return &c.TUN }),
		one("tun-fd", "N", "adopt an open TUN fd", ForRun, parseCount, func(c *Config) *int { return &c.TUNFd }),
		one("mtu", "N", "MTU of the TUN (chosen by measurement)", both, parseCount, func(c *Config) *int { return &c.MTU }),
		one("queues", "N", "TUN queues, 0 = "+queues+" (0)", both, parseQueues, func(c *Config) *int { return &c.Queues }),
		list("address", "PREFIX", "host address (198.18.0.1/30, fd19:8::1/126)", both, parseAddress, func(c *Config) *[]netip.Prefix { return &c.Address }),
		{
			Name: "route", Meta: "CIDR", Help: "send it into the TUN; default = everything", Repeat: true, Commands: ForRun,
			clear: func(c *Config) { c.Route, c.RouteDefault = nil, false }, set: setRoute,
		},
		list("exclude", "CIDR", "keep this destination out of the TUN", ForRun, parsePrefix, func(c *Config) *[]netip.Prefix { return &c.Exclude }),
		list("include-uid", "USER", "capture only this user (or range, 1000-1999)", ForRun, parseUIDs, func(c *Config) *[]netcfg.UIDRange { return &c.IncludeUID }),
		list("exclude-uid", "USER", "never capture this user (or range)", ForRun, parseUIDs, func(c *Config) *[]netcfg.UIDRange { return &c.ExcludeUID }),
		list("exclude-cgroup", "PATH", "never capture this cgroup", ForRun, parseCgroup, func(c *Config) *[]string { return &c.ExcludeCgroup }),
		one("gateway", "", "other hosts may route and use SOCKS through us", ForRun, parseBool, func(c *Config) *bool { return &c.Gateway }),
		one("strict", "", "refuse what goes around; =keep after a crash, too", ForRun, parseStrict, func(c *Config) *netcfg.Strict { return &c.Strict }),
		one("no-ipv6", "", "refuse IPv6 at once instead of carrying it", both, parseBool, func(c *Config) *bool { return &c.NoIPv6 }),
		one("interface", "NAME", "outbound sockets leave by it (the host's choice)", both, parseInterface, func(c *Config) *string { return &c.Interface }),
		one("fwmark", "N", "SO_MARK of outbound sockets (set if needed)", both, parseMark, func(c *Config) *uint32 { return &c.FWMark }),
		{
			Name: "via", Meta: "URL", Help: "socks5://[user:pass@]host:port, http://…, direct", Repeat: true, Commands: both,
			clear: func(c *Config) { c.Via = nil }, set: setVia,
		},
		{
			Name: "socks", Meta: "ADDR", Help: "SOCKS on the host, or off (" + listens + ")", Repeat: true, Commands: both,
			clear: func(c *Config) { c.SOCKS = nil }, set: setSOCKS,
		},
		one("socks-stack", "PORT", "SOCKS on the stack address, 0 = none (1080)", ForRun, parsePort, func(c *Config) *uint16 { return &c.SOCKSStack }),
		one("socks-egress", "WAY", "what --socks dials through, host or stack (host)", ForRun, parseEgress, func(c *Config) *Egress { return &c.SOCKSEgress }),
		list("auth", "USER:PASS", "require this SOCKS and HTTP user", both, parseCredential, func(c *Config) *[]Credential { return &c.Auth }),
		one("auth-file", "FILE", "the same, a line each"+rereads, both, parseFile, func(c *Config) *string { return &c.AuthFile }),
		one("allow-open", "", "an open proxy beyond loopback is meant", both, parseBool, func(c *Config) *bool { return &c.AllowOpen }),
		duration("udp-timeout", "idle UDP session (5m)", func(c *Config) *timeout { return (*timeout)(&c.UDPTimeout) }),
		duration("dial-timeout", "one outbound dial (10s)", func(c *Config) *timeout { return (*timeout)(&c.DialTimeout) }),
		one("keepalive", "SPEC", "IDLE[/INTERVAL/COUNT] of TCP, or off (15s/15s/9)", both, parseKeepAlive, func(c *Config) *net.KeepAliveConfig { return &c.KeepAlive }),
		one("max-flows", "N", "flows at once, 0 = from the fd limit (0)", both, parseCount, func(c *Config) *int { return &c.MaxFlows }),
		one("max-memory", "BYTES", "budget of the flows' buffers (a quarter of RAM)", both, parseBytes, func(c *Config) *int64 { return &c.MaxMemory }),
		duration("drain", "how long flows may finish at shutdown (5s)", func(c *Config) *timeout { return (*timeout)(&c.Drain) }),
		list("allow", "CIDR", "only this may go out", ForExec, parsePrefix, func(c *Config) *[]netip.Prefix { return &c.Exec.Allow }),
		one("block-lan", "", "this host and its networks, private ones are refused", ForExec, parseBool, func(c *Config) *bool { return &c.Exec.BlockLAN }),
		list("publish", "PORTS", "[ADDR:][PORT:]PORT[/udp] of the host to the command", ForExec, parsePublish, func(c *Config) *[]publish.Port { return &c.Exec.Publish }),
		one("pcap", "FILE", "write the command's packets to FILE", ForExec, parseFile, func(c *Config) *string { return &c.Exec.Pcap }),
		one("log-level", "LEVEL", "debug, info, warn or error ("+speaks+")", both, parseLevel, func(c *Config) *slog.Level { return &c.LogLevel }),
		one("log-format", "FORMAT", "text or json (text)", both, parseFormat, func(c *Config) *string { return &c.LogFormat }),
		{
			Name: "tune", Meta: "KEY=VALUE", Help: "for bench/tune; no promise", Repeat: true, Hidden: true, Commands: ForRun,
			clear: func(c *Config) { c.Tune = Tune{} }, set: setTune,
		},
	}
	var out []Option
	for _, o := range all {
		if o.Commands&cmd != 0 {
			out = append(out, o)
		}
	}
	return out
}

// one is an option with one value of type T.
func one[T any](name, meta, help string, cmds Command, parse func(string) (T, error), field func(*Config) *T) Option {
	return Option{Name: name, Meta: meta, Help: help, Commands: cmds, set: func(c *Config, s string) error {
		v, err := parse(s)
		if err == nil {
			*field(c) = v
		}
		return err
	}}
}

// list is a repeatable option.
func list[T any](name, meta, help string, cmds Command, parse func(string) (T, error), field func(*Config) *[]T) Option {
	return Option{
		Name: name, Meta: meta, Help: help, Repeat: true, Commands: cmds,
		clear: func(c *Config) { *field(c) = nil },
		set: func(c *Config, s string) error {
			v, err := parse(s)
			if err == nil {
				*field(c) = append(*field(c), v)
			}
			return err
		},
	}
}

func duration(name, help string, field func(*Config) *timeout) Option {
	return one(name, "D", help, ForRun|ForExec, parseDuration, field)
}

func setRoute(c *Config, s string) error {
	if s == "default" {
		c.RouteDefault = true
		return nil
	}
	p, err := parsePrefix(s)
	if err != nil {
		return fmt.Errorf("%w, or default", err)
	}
	c.Route = append(c.Route, p)
	return nil
}

func setVia(c *Config, s string) error {
	if s == "direct" {
		if len(c.Via) > 0 {
			return fmt.Errorf("direct ends no chain of upstreams; leave it out")
		}
		return nil
	}
	u, err := parseUpstream(s)
	if err == nil {
		c.Via = append(c.Via, u)
	}
	return err
}

func setSOCKS(c *Config, s string) error {
	if s == "off" {
		c.SOCKS = nil
		return nil
	}
	addr, err := parseListen(s)
	if err == nil {
		c.SOCKS = append(c.SOCKS, addr)
	}
	return err
}
