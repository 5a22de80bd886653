package daemon

import (
	"context"
	"fmt"
	"net/netip"

	"netstackd/internal/config"
	"netstackd/internal/publish"
	"netstackd/internal/sandbox"
)

// listenPublished opens the ports of --publish, which lead into the sandbox.
func listenPublished(ctx context.Context, e *engine, sb *sandbox.Sandbox, cfg config.Config) (*publish.Server, error) {
	// The command's server may listen on all addresses, on loopback, or on the
	// TUN's: they are tried in this order.
	inside := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	for _, a := range cfg.Address {
		inside = append(inside, a.Addr())
	}
	p, err := publish.Listen(ctx, publish.Config{
		Dial:       sb.Dial,
		Inside:     inside,
		Flows:      e.flows,
		Permit:     e.routes.Permit,
		Join:       e.relay.Join,
		KeepAlive:  cfg.KeepAlive,
		UDPTimeout: cfg.UDPTimeout,
		Logger:     e.log,
	}, cfg.Exec.Publish...)
	if err != nil {
		return nil, fmt.Errorf("--publish: %w; choose another address or port", err)
	}
	return p, nil
}
