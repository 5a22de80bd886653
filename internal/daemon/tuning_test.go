package daemon

import (
	"testing"

	"netstackd/internal/config"
	"netstackd/internal/netstack"
)

// Only where the stack's own connections go far are buffers larger, unless the
// user has said how large.
func TestBuffers(t *testing.T) {
	const m = 1 << 20
	for _, c := range []struct {
		egress        config.Egress
		tuned         netstack.TCPConfig
		receive, send int // 0 = the stack's default
		largest       int
	}{
		{egress: config.EgressHost, largest: 8 * m},
		{egress: config.EgressStack, receive: 16 * m, send: 16 * m, largest: 16 * m},
		{egress: config.EgressHost, tuned: netstack.TCPConfig{SendBuffer: 32 * m}, send: 32 * m, largest: 32 * m},
		{egress: config.EgressStack, tuned: netstack.TCPConfig{ReceiveBuffer: m}, receive: m, send: 16 * m, largest: 16 * m},
		{egress: config.EgressStack, tuned: netstack.TCPConfig{ReceiveBuffer: m, SendBuffer: 2 * m}, receive: m, send: 2 * m, largest: 2 * m},
	} {
		cfg := config.Config{SOCKSEgress: c.egress, Tune: config.Tune{TCP: c.tuned}}
		got := tcpConfig(cfg)
		if got.ReceiveBuffer != c.receive || got.SendBuffer != c.send || got.LargestBuffer() != c.largest {
			t.Errorf("egress %s, tuned %+v: %d to receive, %d to send, largest %d; want %d, %d, %d",
				c.egress, c.tuned, got.ReceiveBuffer, got.SendBuffer, got.LargestBuffer(), c.receive, c.send, c.largest)
		}
	}
}
