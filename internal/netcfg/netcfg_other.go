//go:build !linux

package netcfg

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
)

// ErrLinkGone says that the TUN was deleted.
var ErrLinkGone = errors.New("interface deleted")

// Host is the host side of one TUN; there is none on this system.
type Host struct{}

// Open is not supported on this system.
func Open(context.Context, string, Config) (*Host, error) {
	return nil, fmt.Errorf("netcfg: %w", errors.ErrUnsupported)
}

// Capture does nothing.
func (h *Host) Capture(context.Context) error { return errors.ErrUnsupported }

// Release does nothing.
func (h *Host) Release() error { return nil }

// Watch does nothing.
func (h *Host) Watch(context.Context) error { return errors.ErrUnsupported }

// Mark is 0.
func (h *Host) Mark() uint32 { return 0 }

// Families reports none.
func (h *Host) Families() (v4, v6 bool) { return false, false }

// IsLocal reports false.
func (h *Host) IsLocal(netip.Addr) bool { return false }

// Nameservers is nil.
func (h *Host) Nameservers() []netip.AddrPort { return nil }

// Close does nothing.
func (h *Host) Close() error { return nil }

// Forwarding says nothing.
func Forwarding(context.Context, string, []netip.Prefix) string { return "" }

// Cleanup is not supported on this system.
func Cleanup() (int, error) { return 0, fmt.Errorf("netcfg: %w", errors.ErrUnsupported) }

// OutboundMTU knows none.
func OutboundMTU(string, uint32) (int, error) {
	return 0, fmt.Errorf("netcfg: %w", errors.ErrUnsupported)
}

// Owner is who holds a socket of this host.
type Owner struct{ UID uint32 }

// Process is one of this host.
type Process struct {
	PID  int
	UID  uint32
	Name string
}

// SocketOwner finds none.
func SocketOwner(string, netip.AddrPort, netip.AddrPort) (Owner, error) {
	return Owner{}, fmt.Errorf("netcfg: %w", errors.ErrUnsupported)
}

// Processes are none.
func (o Owner) Processes() []Process { return nil }

// Has reports false.
func (p Process) Has(Owner) bool { return false }

// Captures reports false.
func (h *Host) Captures(Process) bool { return false }

// AddressesFree says nothing.
func AddressesFree(string, []netip.Prefix) error { return nil }
