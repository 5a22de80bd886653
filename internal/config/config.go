// Package config is the configuration of `run` and `exec`: one table of options,
// which the command line, the manual and the YAML file come from, the parsers of
// their values, and the checks of the whole.
package config

import (
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"netstackd/internal/netcfg"
	"netstackd/internal/publish"
)

// Config is the command line: one field for each flag, in the order of the
// manual. Default gives the values a bare `netstackd` runs with; Validate
// checks the whole, after flags and file have been applied.
type Config struct {
	TUN     string         // --tun: the interface's name
	TUNFd   int            // --tun-fd: an open TUN fd to adopt, -1 for none
	MTU     int            // --mtu: of the TUN, 0 for the measured default
	Queues  int            // --queues: TUN queues, 0 for one per core
	Address []netip.Prefix // --address: at most one of each family; see StackAddr

	Route         []netip.Prefix    // --route, without `default`
	RouteDefault  bool              // --route default
	Exclude       []netip.Prefix    // --exclude
	IncludeUID    []netcfg.UIDRange // --include-uid
	ExcludeUID    []netcfg.UIDRange // --exclude-uid
	ExcludeCgroup []string          // --exclude-cgroup: paths below the cgroup2 mount
	Gateway       bool              // --gateway
	Strict        netcfg.Strict     // --strict
	NoIPv6        bool              // --no-ipv6

	Interface   string     // --interface: outbound sockets are bound to it
	FWMark      uint32     // --fwmark: SO_MARK of outbound sockets, 0 for none
	Via         []*url.URL // --via: upstreams, nearest first; none means direct
	DialTimeout time.Duration
	UDPTimeout  time.Duration
	KeepAlive   net.KeepAliveConfig // --keepalive: of TCP connections, on both sides of a flow

	SOCKS       []string     // --socks: host listeners, host:port
	SOCKSStack  uint16       // --socks-stack: port on the stack address, 0 for none
	SOCKSEgress Egress       // --socks-egress
	Auth        []Credential // --auth
	AuthFile    string       // --auth-file
	AllowOpen   bool         // --allow-open

	MaxFlows  int           // --max-flows: 0 derives it from the fd limit
	MaxMemory int64         // --max-memory in bytes: 0 is a quarter of RAM
	Drain     time.Duration // --drain

	LogLevel  slog.Level // --log-level
	LogFormat string     // --log-format: "text" or "json"

	Exec ExecConfig // what only `exec` takes
	Tune Tune       // --tune

	PassedOver []string // keys of the --config file that only other commands take

	// Reload asks for AuthFile to be read again, once per value received.
	// It is the one field that is no flag: SIGHUP feeds it. nil is fine.
	Reload <-chan struct{}
}

// ExecConfig holds the flags that only `netstackd exec` takes.
type ExecConfig struct {
	Allow    []netip.Prefix // --allow: what may go out; none means everything
	BlockLAN bool           // --block-lan: private and link-local destinations are refused
	Publish  []publish.Port // --publish
	Pcap     string         // --pcap: file to write the TUN's packets to
}

// Egress is what a SOCKS listener on the host dials through.
type Egress string

// The two ways out.
const (
	EgressHost  Egress = "host"  // the host's own sockets, or --via
	EgressStack Egress = "stack" // the userspace stack, out through the TUN
)

// Credential is one RFC 1929 user. It prints without its password.
type Credential struct{ User, Password string }

// String hides the password, so that a logged Config gives nothing away.
func (c Credential) String() string { return c.User + ":***" }

// defaultKeepAlive finds a peer that vanished in two and a half minutes.
func defaultKeepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second, Count: 9}
}

// Default is the configuration of `netstackd` without flags.
func Default() Config {
	return Config{
		TUN:   "netstackd0",
		TUNFd: -1,
		Address: []netip.Prefix{
			netip.MustParsePrefix("198.18.0.1/30"),
			netip.MustParsePrefix("fd19:8::1/126"),
		},
		SOCKS:       []string{"127.0.0.1:1080"},
		SOCKSStack:  1080,
		SOCKSEgress: EgressHost,
		DialTimeout: 10 * time.Second,
		UDPTimeout:  5 * time.Minute, // RFC 4787 REQ-5
		KeepAlive:   defaultKeepAlive(),
		Drain:       5 * time.Second,
		LogLevel:    slog.LevelInfo,
		LogFormat:   "text",
	}
}

// DefaultExec is the configuration of `netstackd exec` without flags: it
// captures everything and opens no SOCKS listener unless told to.
func DefaultExec() Config {
	c := Default()
	c.SOCKS = nil
	c.SOCKSStack = 0
	c.LogLevel = slog.LevelWarn // stderr belongs to the command
	c.RouteDefault = true
	return c
}

// Routes are the destinations of all --route.
func (c Config) Routes() []netip.Prefix {
	routes := slices.Clone(c.Route)
	if c.RouteDefault {
		routes = append(routes, netcfg.DefaultRoutes()...)
	}
	return routes
}

// StackAddr is the userspace stack's address for a host address: the next
// one in the same prefix.
func StackAddr(host netip.Prefix) netip.Addr { return host.Addr().Next() }
