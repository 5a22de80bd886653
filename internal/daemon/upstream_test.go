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
		u := &upstreams{dialer: b, log: slog.New(slog.NewTextHandler(&out, nil))}
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
