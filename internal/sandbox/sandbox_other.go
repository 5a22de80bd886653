//go:build !linux

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
)

// Sandbox can't be had on this system.
type Sandbox struct{}

func unsupported() error {
	return &Error{StatusFailed, fmt.Errorf("exec on %s: %w: it needs Linux", runtime.GOOS, errors.ErrUnsupported)}
}

// IsHelper reports false: there is no helper on this system.
func IsHelper() bool { return false }

// Main is never called on this system.
func Main() int { return StatusFailed }

// Start returns an error that wraps errors.ErrUnsupported.
func Start(context.Context, Config) (*Sandbox, error) { return nil, unsupported() }

// TUN returns none.
func (*Sandbox) TUN() []int { return nil }

// DNS returns none.
func (*Sandbox) DNS() ([]net.PacketConn, []net.Listener) { return nil, nil }

// Probing reports false.
func (*Sandbox) Probing(netip.AddrPort) bool { return false }

// Dialer returns next.
func (*Sandbox) Dialer(next Dialer) Dialer { return next }

// Run returns an error.
func (*Sandbox) Run(context.Context) error { return unsupported() }

// Wait returns an error.
func (*Sandbox) Wait(context.Context) (int, error) { return StatusFailed, unsupported() }

// Dial returns an error.
func (*Sandbox) Dial(context.Context, string, string) (net.Conn, error) { return nil, unsupported() }

// Close does nothing.
func (*Sandbox) Close() error { return nil }
