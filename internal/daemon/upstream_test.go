package daemon

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
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

// faultyUpstream is an upstream on the other end of each connection that is
// dialed.
type faultyUpstream struct {
	dialer
	unreached bool             // connections to it get no answer
	serve     func(c net.Conn) // with each connection
}

func (f *faultyUpstream) DialContext(ctx context.Context, _ *flow.Meta, _, _ string) (net.Conn, error) {
	if f.unreached {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	ours, theirs := net.Pipe()
	go f.serve(theirs)
	return ours, nil
}

// hang reads and says nothing.
func hang(c net.Conn) {
	io.Copy(io.Discard, c)
	c.Close()
}

// answerLater answers a request for 192.0.2.7 with success after half a second, and
// none for another address.
func answerLater(c net.Conn) {
	b := make([]byte, 512)
	n, _ := c.Read(b)
	c.Write([]byte{5, 0})
	if bytes.Contains(b[:n], []byte{192, 0, 2, 7}) {
		time.Sleep(time.Second / 2)
		c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	}
	hang(c)
}

// Each way of an upstream to leave all requests without an answer is logged
// within five seconds of the first one, whether it keeps the dial waiting or
// not, and whether or not the application gives up meanwhile. One that answers
// others is not at fault: the destination may be silent.
func TestUpstreamWithoutAnswersIsSaid(t *testing.T) {
	const silent, closes, unreached = "accepts connections but does not answer", "closes connections before its answer is complete", "does not answer to connections"
	deadline, gone := context.DeadlineExceeded, context.Canceled
	for _, tt := range []struct {
		name     string
		via      string // http://, socks4a://, or socks5://
		upstream faultyUpstream
		patient  time.Duration // until a dial ends
		cause    error         // of its end
		rounds   int
		want     string // empty = nothing is logged
	}{
		{"hangs", "socks5", faultyUpstream{serve: hang}, 10 * time.Second, deadline, 1, silent},
		{"hangs, HTTP", "http", faultyUpstream{serve: hang}, 10 * time.Second, deadline, 1, silent},
		{"hangs, SOCKS4a", "socks4a", faultyUpstream{serve: hang}, 10 * time.Second, deadline, 1, silent},
		{"hangs, short timeout", "socks5", faultyUpstream{serve: hang}, 2 * time.Second, deadline, 1, silent},
		{"hangs, applications give up", "socks5", faultyUpstream{serve: hang}, 4 * time.Second, gone, 1, silent},
		{"hangs, the application gives up soon", "socks5", faultyUpstream{serve: hang}, time.Second, gone, 1, ""},
		{"closes at once", "socks5", faultyUpstream{serve: func(c net.Conn) { c.Close() }}, 10 * time.Second, deadline, 1, closes},
		{"closes at once, HTTP", "http", faultyUpstream{serve: func(c net.Conn) { c.Close() }}, 10 * time.Second, deadline, 1, closes},
		{"closes in its answer", "socks5", faultyUpstream{serve: func(c net.Conn) {
			c.Read(make([]byte, 512))
			c.Write([]byte{5, 0, 5, 0, 0, 3, 200, 'x'})
			c.Close()
		}}, 10 * time.Second, deadline, 1, closes},
		{"closes in its answer, HTTP", "http", faultyUpstream{serve: func(c net.Conn) {
			c.Read(make([]byte, 512))
			io.WriteString(c, "HTTP/1.1 200 OK\r\nX-")
			c.Close()
		}}, 10 * time.Second, deadline, 1, closes},
		{"does not answer to a connection", "socks5", faultyUpstream{unreached: true}, 10 * time.Second, deadline, 1, unreached},
		{"others are answered", "socks5", faultyUpstream{serve: answerLater}, 10 * time.Second, deadline, 4, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				d, err := socks.Via(ownFlows{&tt.upstream}, tt.via+"://proxy.test:1080")
				if err != nil {
					t.Fatal(err)
				}
				u := newUpstreams(overUpstream{d}, nil, slog.New(slog.NewTextHandler(&out, nil)))
				dial := func() {
					ctx, cancel := context.WithCancel(t.Context())
					if tt.cause == deadline {
						ctx, cancel = context.WithTimeout(t.Context(), tt.patient)
					} else {
						time.AfterFunc(tt.patient, cancel)
					}
					defer cancel()
					var wg sync.WaitGroup
					for _, to := range []string{"192.0.2.7:80", "192.0.2.8:80"} {
						wg.Go(func() {
							if c, err := u.DialContext(ctx, &flow.Meta{}, "tcp", to); err == nil {
								c.Close()
							}
						})
					}
					wg.Wait()
				}
				go func() {
					for range tt.rounds {
						dial()
					}
				}()
				after := func(d time.Duration) int {
					time.Sleep(d)
					synctest.Wait()
					return strings.Count(out.String(), "\n")
				}
				want := 0
				if tt.want != "" {
					want = 1
				}
				if n := after(5 * time.Second); n != want {
					t.Errorf("%d lines after five seconds, want %d:\n%s", n, want, &out)
				}
				if n := after(45 * time.Second); n != want {
					t.Errorf("%d lines, want %d:\n%s", n, want, &out)
				}
				if want == 0 {
					return
				}
				for _, part := range []string{"level=WARN", "via=" + tt.via + "://proxy.test:1080", tt.want, "mend="} {
					if !strings.Contains(out.String(), part) {
						t.Errorf("%q is not in %s", part, &out)
					}
				}
				if strings.Contains(out.String(), "192.0.2") {
					t.Errorf("the destination is in %s", &out)
				}
			})
		})
	}
}
