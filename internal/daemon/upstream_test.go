package daemon

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"netstackd/internal/flow"
	"netstackd/socks"
)

// brokenVia is an upstream that fails in one way.
type brokenVia struct {
	dialer
	err error
}

func (b brokenVia) DialContext(context.Context, *flow.Meta, string, string) (net.Conn, error) {
	return nil, b.err
}

func (b brokenVia) ListenPacket(context.Context, *flow.Meta, string, string) (net.PacketConn, error) {
	return nil, b.err
}

func TestUpstreamFaultIsSaidOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		b := &brokenVia{err: &socks.OpError{
			Op: "connect", Addr: "192.0.2.7:80", Server: "socks5://proxy.test:1080",
			Err: fmt.Errorf("%w: check it", socks.ErrAuth),
		}}
		u := newUpstreams(b, nil, slog.New(slog.NewTextHandler(&out, nil)))
		said := func() (lines int) {
			u.DialContext(t.Context(), &flow.Meta{}, "tcp", "192.0.2.7:80")
			u.ListenPacket(t.Context(), &flow.Meta{}, "udp4", "")
			return strings.Count(out.String(), "\n")
		}
		for range 100 {
			said()
			time.Sleep(100 * time.Millisecond)
		}
		if n := said(); n != 1 {
			t.Fatalf("%d lines in ten seconds:\n%s", n, &out)
		}
		for _, want := range []string{"level=WARN", "via=socks5://proxy.test:1080", "authentication refused"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%q is not in %s", want, &out)
			}
		}
		if strings.Contains(out.String(), "192.0.2.7") {
			t.Errorf("the destination is in %s", &out)
		}
		time.Sleep(time.Minute)
		if n := said(); n != 2 {
			t.Errorf("%d lines a minute later", n)
		}
		time.Sleep(time.Hour)
		b.err = &socks.OpError{Op: "connect", Server: "socks5://proxy.test:1080", Err: syscall.ECONNREFUSED}
		if n := said(); n != 2 {
			t.Errorf("a destination's fault is said to be the upstream's:\n%s", &out)
		}
	})
}

// hangingVia takes every connection and answers after a time, or never.
type hangingVia struct {
	dialer
	answer time.Duration // 0 = never
}

func (h hangingVia) DialContext(ctx context.Context, _ *flow.Meta, _, address string) (net.Conn, error) {
	var answer <-chan time.Time
	if h.answer > 0 && address == "192.0.2.7:80" {
		answer = time.After(h.answer)
	}
	select {
	case <-answer:
		return nil, nil
	case <-ctx.Done():
		return nil, &socks.OpError{
			Op: "connect", Addr: address, Server: "socks5://proxy.test:1080",
			Err: fmt.Errorf("%w: %w", socks.ErrSilent, context.Cause(ctx)),
		}
	}
}

// An upstream that answers no request is said to be at fault, whether the dial
// timed out or the application gave up. One that answers others is not: the
// destination may be silent.
func TestUpstreamSilenceIsSaid(t *testing.T) {
	for _, tt := range []struct {
		name    string
		answer  time.Duration
		patient time.Duration // until the dial ends
		cause   error
		want    int
	}{
		{"timed out", 0, 10 * time.Second, context.DeadlineExceeded, 1},
		{"given up", 0, 5 * time.Second, context.Canceled, 1},
		{"given up at once", 0, time.Second, context.Canceled, 0},
		{"others answered", time.Second, 10 * time.Second, context.DeadlineExceeded, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				u := newUpstreams(hangingVia{answer: tt.answer}, nil, slog.New(slog.NewTextHandler(&out, nil)))
				for range 4 {
					ctx, cancel := context.WithCancelCause(t.Context())
					time.AfterFunc(tt.patient, func() { cancel(tt.cause) })
					go u.DialContext(ctx, &flow.Meta{}, "tcp", "192.0.2.7:80")
					u.DialContext(ctx, &flow.Meta{}, "tcp", "192.0.2.8:80")
					synctest.Wait()
				}
				if n := strings.Count(out.String(), "via=socks5://proxy.test:1080"); n != tt.want {
					t.Errorf("%d lines, want %d:\n%s", n, tt.want, &out)
				}
				if tt.want > 0 && !strings.Contains(out.String(), "accepts connections but does not answer") {
					t.Errorf("what it does is not in %s", &out)
				}
				if strings.Contains(out.String(), "192.0.2") {
					t.Errorf("the destination is in %s", &out)
				}
			})
		})
	}
}
