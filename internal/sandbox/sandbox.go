// Package sandbox runs one command in namespaces whose only way out is a TUN
// of ours: the inside of `netstackd exec`.
//
// # Theory of operation
//
// Three processes, of which the first stays in the caller's namespaces:
//
//	netstackd ──socketpair── helper ──fork── the command
//	(daemon, stack)          └── new user, network and mount namespace ──┘
//
// Start runs our own binary again as the helper (Main), in new namespaces. A
// plain unprivileged user namespace gives it the capabilities to shape them:
// it opens the TUN, gives it addresses and both default routes, brings loopback
// up, lays a resolv.conf of its own over the host's, hides the host's resolvers
// behind Unix sockets, and hands the TUN's fd out over the socketpair. The
// network namespace has no other interface, and never gets one.
//
// The caller then runs its stack on the fd, with Dialer around what the
// forwarder dials with, and calls Run. The helper connects, over each address
// family, to a documentation address that only the default route can reach;
// the connection has to come out of the TUN, through the stack and the
// forwarder, into Dialer, and a secret has to make the way there and back.
// Only then does the helper start the command, without capabilities: it fails
// closed, on every error before that point.
//
// The helper stays, as the command's parent. It is in the same process group as
// netstackd and the command, so that the terminal's signals reach the command
// from the kernel, and passes on those that were sent to netstackd alone (see
// relay in signals_linux.go); it tells netstackd when the command stops, so that
// the shell sees the whole job stopped; it makes connections inside for
// published ports; it renews what it laid over the host's files when the host
// replaces them; and it reaps. Everything the command leaves behind, it ends
// when the command has ended: SIGTERM, a moment, SIGKILL. What would be left
// otherwise is a process whose network is gone.
//
// When netstackd dies, the fd closes and the TUN goes with it: the command
// lives on without any network. The helper sees the socketpair end, and exits.
package sandbox

import (
	"errors"
	"log/slog"
	"net/netip"
	"time"
)

// HelperName is argv[0] of the helper process, as it shows in ps.
const HelperName = "netstackd-exec-helper"

// The exit statuses that belong to us and not to the command, as env(1),
// timeout(1) and docker run(1) have them.
const (
	StatusFailed     = 125 // the sandbox can't be set up
	StatusCannotRun  = 126 // the command is there, and can't be run
	StatusNotFound   = 127 // the command isn't there
	statusSignalBase = 128 // + the number of the signal that ended the command
)

// UserNamespace says whether the command runs in a user namespace of its own.
type UserNamespace uint8

// The choices. Without privileges there is only Auto and Always, which are
// the same: one that maps the caller's own ids and nothing else.
const (
	// Auto is Always, and for root Never where that fails.
	Auto UserNamespace = iota
	// Always makes one. For root it maps every id, so that the command is
	// root over files as before, but can't enter the host's other namespaces.
	Always
	// Never needs root. The command keeps all of root's power, which
	// includes that to leave the sandbox on purpose, with nsenter(1).
	Never
)

// Config of a sandbox. Command and Addresses are required.
type Config struct {
	Command []string // the command and its arguments
	Env     []string // its environment; nil means the caller's
	Dir     string   // its working directory; "" means the caller's

	TUN       string         // the interface's name inside; "" is tun0
	Queues    int            // its queues, one fd each; 0 is 1
	MTU       int            // its MTU in bytes; 0 is 1500
	PathMTU   int            // that of what is beyond it, to all but TCP; 0 is 1500
	Addresses []netip.Prefix // the command's end of the TUN
	NoIPv6    bool           // no IPv6 address and no IPv6 route inside

	// Nameserver is what resolv.conf names inside: the stack's address.
	Nameserver netip.Addr

	UserNamespace UserNamespace

	// JobControl makes this process stand for the command from Run until Wait
	// returns: signals that it gets alone are passed on to the command, and
	// when the command stops, it stops itself. Run then gives up standard
	// input, standard output, and what else the caller left open for the
	// command, so that the command's are the only ones.
	JobControl bool

	// Grace is how long what the command leaves behind may take to end after
	// SIGTERM; 0 is 2 s.
	Grace time.Duration

	Logger *slog.Logger // nil logs nothing
}

const (
	defaultTUN   = "tun0"
	defaultMTU   = 1500
	defaultPath  = 1500
	defaultGrace = 2 * time.Second
)

// withDefaults fills in what the zero value stands for and checks the rest.
func (c Config) withDefaults() (Config, error) {
	if len(c.Command) == 0 {
		return c, errors.New("no command to run: put it after --")
	}
	if len(c.Addresses) == 0 {
		return c, errors.New("no address for the TUN")
	}
	if c.TUN == "" {
		c.TUN = defaultTUN
	}
	if c.Queues <= 0 {
		c.Queues = 1
	}
	if c.MTU == 0 {
		c.MTU = defaultMTU
	}
	if c.PathMTU == 0 {
		c.PathMTU = defaultPath
	}
	if c.Grace == 0 {
		c.Grace = defaultGrace
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// Error is a failure together with the status that exec ends with for it.
type Error struct {
	Status int // StatusFailed, StatusCannotRun or StatusNotFound
	Err    error
}

// Error names the cause and, where there is one, the mend.
func (e *Error) Error() string { return "sandbox: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Status is what exec exits with for an error of this package or any other:
// StatusFailed unless an Error says otherwise.
func Status(err error) int {
	var e *Error
	if errors.As(err, &e) {
		return e.Status
	}
	return StatusFailed
}
