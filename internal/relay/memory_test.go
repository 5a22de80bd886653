//go:build linux

package relay_test

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"netstackd/internal/netstack"
	"netstackd/internal/relay"
)

// A flow that stands still holds what its buffers are limited to, counts as one
// direction that waits until it is read, and loses nothing.
func TestLimitedBuffers(t *testing.T) {
	const limit, most, free = 64 << 10, 1 << 20, 2 << 20
	for _, kind := range []string{sockets, stackIn, stackOut} {
		t.Run(kind, func(t *testing.T) {
			var waiting atomic.Int64
			r := newRigWith(t, relay.Config{Waiting: func(n int) { waiting.Store(int64(n)) }})
			unlimited := fill(t, r, kind, &waiting)
			r.relay.SetBuffers(relay.Buffers{Stack: limit, Socket: limit, Fresh: limit})
			limited := fill(t, r, kind, &waiting)
			t.Logf("%d bytes go into a flow that nobody reads, %d when its buffers are limited", unlimited, limited)
			if unlimited < free {
				t.Errorf("%d bytes go into a flow without limits", unlimited)
			}
			if limited > most {
				t.Errorf("%d bytes go into a flow with four buffers of %d", limited, limit)
			}
		})
	}
}

// A flow that was never read holds less in the stack than the others may.
func TestFreshSend(t *testing.T) {
	const limit, most = 64 << 10, 1 << 20
	var waiting atomic.Int64
	r := newRigWith(t, relay.Config{Waiting: func(n int) { waiting.Store(int64(n)) }})
	r.relay.SetBuffers(relay.Buffers{Stack: 8 << 20, Socket: limit, Fresh: limit, FreshSend: limit})
	if n := fill(t, r, stackOut, &waiting); n > most {
		t.Errorf("%d bytes go into a flow that may queue %d for its reader", n, limit)
	}
}

// fill writes into a flow until it takes no more, then reads it empty, and
// returns how much it took.
func fill(t *testing.T, r *rig, kind string, waiting *atomic.Int64) (sent int) {
	t.Helper()
	client, server, _ := r.join(kind)
	const small = 64 << 10
	switch c := client.(type) { // what it holds itself
	case *net.TCPConn:
		_ = c.SetWriteBuffer(small)
	case *netstack.Conn:
		c.SetBuffers(small, small)
	}
	block := make([]byte, 64<<10)
	for {
		// A write that makes no progress for this long has met full buffers.
		client.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		n, err := client.Write(block)
		sent += n
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		if err != nil && waiting.Load() == 1 {
			break
		}
	}
	closeWrite(t, client)
	if n, err := io.Copy(io.Discard, struct{ io.Reader }{server}); err != nil || int(n) != sent {
		t.Errorf("%d of %d bytes arrived: %v", n, sent, err)
	}
	closeWrite(t, server)
	r.wait()
	if n := waiting.Load(); n != 0 {
		t.Errorf("%d directions wait at the end", n)
	}
	return sent
}
