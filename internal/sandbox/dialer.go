package sandbox

import (
	"context"
	"net"

	"netstackd/internal/flow"
)

// Dialer is what carries flows on: the host's network or an upstream.
type Dialer interface {
	DialContext(ctx context.Context, m *flow.Meta, network, address string) (net.Conn, error)
	ListenPacket(ctx context.Context, m *flow.Meta, network, address string) (net.PacketConn, error)
	Listen(ctx context.Context, m *flow.Meta, network, address string) (net.Listener, error)
}
