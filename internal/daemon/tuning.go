package daemon

import (
	"cmp"

	"netstackd/internal/config"
	"netstackd/internal/netstack"
)

// farBuffer is enough for a stack whose own connections go far: over a round
// trip of 50 ms, 335 Mbyte/s to send and, since half a buffer is window, 168 to
// receive.
const farBuffer = 16 << 20

// tcpConfig returns how the stack's TCP is tuned.
func tcpConfig(cfg config.Config) netstack.TCPConfig {
	t := cfg.Tune.TCP
	t.KeepAlive = cfg.KeepAlive
	if cfg.SOCKSEgress == config.EgressStack {
		t.ReceiveBuffer = cmp.Or(t.ReceiveBuffer, farBuffer)
		t.SendBuffer = cmp.Or(t.SendBuffer, farBuffer)
	}
	return t
}
