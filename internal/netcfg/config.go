package netcfg

import (
	"fmt"
	"log/slog"
	"net/netip"
)

// Config says what Open and Capture do. The zero value of every field is
// useful: no addresses, no capture.
type Config struct {
	// Addresses are the host's own on the TUN, each with the prefix length
	// of the subnet that it shares with the stack. Only the stack's address,
	// the next one, is routed into the TUN by them.
	Addresses []netip.Prefix
	// MTU of the TUN, 0 to leave it as it is.
	MTU int
	// TxQueueLen is how many packets the kernel queues before it drops; 0 to
	// leave it as it is.
	TxQueueLen int

	// Routes are the destinations to capture. 0.0.0.0/0 or ::/0 capture
	// everything but the directly connected subnets; see DefaultRoutes.
	Routes []netip.Prefix
	// Excludes are destinations to leave alone. Between Routes and Excludes
	// the longest prefix wins, and Excludes between equals.
	Excludes []netip.Prefix
	// IncludeUIDs, if any, are the only users whose traffic is captured.
	IncludeUIDs []UIDRange
	// ExcludeUIDs are users whose traffic is not.
	ExcludeUIDs []UIDRange
	// ExcludeCgroups are paths below the cgroup2 mount whose sockets, made
	// while the capture runs, stay out.
	ExcludeCgroups []string
	// DNS are the stack's addresses that serve DNS on port 53. With a default
	// route, systemd-resolved, where it runs, asks them.
	DNS []netip.Addr
	// Gateway captures forwarded traffic as well, and lets other hosts use the
	// stack's services.
	Gateway bool
	// StackEgress says that the stack's own connections leave through the TUN, so
	// that this host forwards their answers to it.
	StackEgress bool
	// StackPorts are those of the stack's services.
	StackPorts []uint16

	// Strict refuses what goes around the capture: new flows of captured users to
	// captured destinations by another interface, as of sockets that are bound to
	// an address or an interface.
	Strict Strict

	// Mark is the SO_MARK of our outbound sockets; 0 lets Open choose one if
	// there are Routes.
	Mark uint32
	// Interface is the one that outbound sockets are bound to, "" for none;
	// only checked here.
	Interface string

	// Log gets warnings and, at level debug, each change to the host; nil
	// for none.
	Log *slog.Logger
}

// ConfigError is an error that is about one field of Config.
type ConfigError struct {
	Field string
	Err   error
}

func (e *ConfigError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *ConfigError) Unwrap() error { return e.Err }

// ConfigField returns the name of the field.
func (e *ConfigError) ConfigField() string { return e.Field }

func fieldError(field, format string, args ...any) error {
	return &ConfigError{field, fmt.Errorf(format, args...)}
}

// Strict is whether what goes around the capture is refused, and for how long.
type Strict uint8

// The ways.
const (
	StrictOff  Strict = iota
	StrictOn          // until Close, and no longer than this process lives
	StrictKeep        // until Close; after a crash, until Cleanup or the next Capture
)

// UIDRange is an inclusive range of user ids.
type UIDRange struct{ First, Last uint32 }

// DefaultRoutes are the destinations of `--route default`.
func DefaultRoutes() []netip.Prefix {
	return []netip.Prefix{
		netip.PrefixFrom(netip.IPv4Unspecified(), 0),
		netip.PrefixFrom(netip.IPv6Unspecified(), 0),
	}
}
