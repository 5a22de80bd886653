package netstack_test

import (
	"testing"

	"netstackd/internal/netstack"
	"netstackd/tun/tuntest"
)

func TestBufferLimits(t *testing.T) {
	const m = 1 << 20
	for _, c := range []struct {
		cfg           netstack.TCPConfig
		limit         int // of LimitBuffers, 0 for none
		receive, send int
	}{
		{receive: 8 * m, send: 2 * m},
		{cfg: netstack.TCPConfig{ReceiveBuffer: 3 * m, SendBuffer: 5 * m}, receive: 3 * m, send: 5 * m},
		{limit: 6 * m, receive: 6 * m, send: 2 * m},
		{cfg: netstack.TCPConfig{SendBuffer: 16 * m}, limit: m, receive: m, send: m},
	} {
		_, s := alone(t, tuntest.Config{}, netstack.Config{TCP: c.cfg})
		if c.limit > 0 {
			s.LimitBuffers(c.limit)
		}
		receive, send, err := s.LargestBuffers()
		if err != nil {
			t.Fatal(err)
		}
		if receive != c.receive || send != c.send {
			t.Errorf("%+v, limit %d: %d to receive and %d to send, want %d and %d", c.cfg, c.limit, receive, send, c.receive, c.send)
		}
	}
}
