//go:build !linux

package hostnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"netstackd/internal/flow"
)

func (d *Dialer) control(_, _ string, _ syscall.RawConn) error {
	if d.cfg.Mark != 0 || d.cfg.Interface != "" {
		return fmt.Errorf("hostnet: marks and bound interfaces: %w", errors.ErrUnsupported)
	}
	return nil
}

func (d *Dialer) dialAddr(ctx context.Context, _ *flow.Meta, network string, dst netip.AddrPort) (net.Conn, error) {
	return d.dialer.DialContext(ctx, network, dst.String())
}

func keepAlive(int, net.KeepAliveConfig) error { return nil }

func enlargeBuffers(*net.UDPConn) error { return nil }

// ListenPing is not supported on this system.
func (d *Dialer) ListenPing(context.Context, string) (*Ping, error) {
	return nil, fmt.Errorf("hostnet: ping: %w", errors.ErrUnsupported)
}

// RaiseFDLimit is not supported on this system.
func RaiseFDLimit() (before, now uint64, err error) {
	return 0, 0, fmt.Errorf("hostnet: file descriptor limit: %w", errors.ErrUnsupported)
}
