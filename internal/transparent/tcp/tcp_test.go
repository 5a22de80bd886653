package tcp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"netstackd/internal/flow"
	"netstackd/internal/netstack"
	"netstackd/internal/route"
	"netstackd/internal/transparent/tcp"
)

// What a dial comes to is what the application sees.
func TestTCPOutcomes(t *testing.T) {
	op := func(err error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", err)}
	}
	for _, c := range []struct {
		name string
		err  error
		want error
		st   tcp.Stats
	}{
		{"refused", op(syscall.ECONNREFUSED), syscall.ECONNREFUSED, tcp.Stats{Refused: 1}},
		{"reset", op(syscall.ECONNRESET), syscall.ECONNREFUSED, tcp.Stats{Refused: 1}},
		{"host unreachable", op(syscall.EHOSTUNREACH), syscall.EHOSTUNREACH, tcp.Stats{Unreachable: 1}},
		{"host down", op(syscall.EHOSTDOWN), syscall.EHOSTUNREACH, tcp.Stats{Unreachable: 1}},
		{"net unreachable", op(syscall.ENETUNREACH), syscall.ENETUNREACH, tcp.Stats{Unreachable: 1}},
		{"prohibited", op(syscall.EACCES), syscall.EHOSTUNREACH, tcp.Stats{Unreachable: 1}},
		{"timed out", op(syscall.ETIMEDOUT), context.DeadlineExceeded, tcp.Stats{TimedOut: 1}},
		{"deadline", fmt.Errorf("upstream: %w", context.DeadlineExceeded), context.DeadlineExceeded, tcp.Stats{TimedOut: 1}},
		{"i/o deadline", op(os.ErrDeadlineExceeded), context.DeadlineExceeded, tcp.Stats{TimedOut: 1}},
		{"descriptors", op(syscall.EMFILE), syscall.ECONNREFUSED, tcp.Stats{Limited: 1}},
		{"unknown", errors.New("no idea"), syscall.ECONNREFUSED, tcp.Stats{Refused: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, tcp.Config{Dialer: dialFunc(func(context.Context, *flow.Meta, string) (net.Conn, error) {
				return nil, c.err
			})}, flow.Config{})
			patience := patience
			if c.want == context.DeadlineExceeded {
				patience = 100 * time.Millisecond // silence has no event
			}
			if _, err := r.dial(t, "192.0.2.1:80", patience); !errors.Is(err, c.want) {
				t.Errorf("the application saw %v, want %v", err, c.want)
			}
			if st := r.tcp.Stats(); st != c.st {
				t.Errorf("stats %+v, want %+v", st, c.st)
			}
			if st := r.flows.Stats(); st.Open != 0 || st.Opened != 1 || (st.Refused == 1) != (c.st.Limited == 1) {
				t.Errorf("flows %+v", st)
			}
		})
	}
}

func TestTCPConnects(t *testing.T) {
	for _, host := range []string{"192.0.2.1", "2001:db8::1"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		to := net.JoinHostPort(host, "8080")
		metas := make(chan flow.Meta, 1)
		r := newRig(t, tcp.Config{Dialer: dialFunc(func(ctx context.Context, m *flow.Meta, address string) (net.Conn, error) {
			metas <- *m
			if address != to {
				t.Errorf("dialed %s, want %s", address, to)
			}
			return net.Dial("tcp", l.Addr().String())
		})}, flow.Config{})
		c, err := r.dial(t, to, patience)
		if err != nil {
			t.Fatal(err)
		}
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if m := <-metas; m.Network != "tcp" || m.Inbound != flow.Transparent || m.Source.String() != c.LocalAddr().String() || m.Destination() != to {
			t.Errorf("flow %+v", m)
		}
		io.WriteString(c, "question")
		c.(*netstack.Conn).CloseWrite()
		if b, err := io.ReadAll(s); string(b) != "question" || err != nil {
			t.Errorf("server read %q, %v", b, err)
		}
		io.WriteString(s, "answer!")
		s.Close()
		if b, err := io.ReadAll(c); string(b) != "answer!" || err != nil {
			t.Errorf("client read %q, %v", b, err)
		}
		r.drained(t)
		if st := r.flows.Stats(); st.Up != 8 || st.Down != 7 {
			t.Errorf("flows %+v", st)
		}
		if st := r.tcp.Stats(); st != (tcp.Stats{Connected: 1}) {
			t.Errorf("stats %+v", st)
		}
	}
}

func TestTCPRoutes(t *testing.T) {
	r := newRig(t, tcp.Config{
		Dialer: dialFunc(func(context.Context, *flow.Meta, string) (net.Conn, error) {
			t.Error("dialed what is not allowed")
			return nil, syscall.ECONNREFUSED
		}),
		Routes: route.New(route.Config{Open: true, Allow: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}}),
	}, flow.Config{})
	if _, err := r.dial(t, "192.0.2.1:80", patience); !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("the application saw %v", err)
	}
	if st := r.tcp.Stats(); st != (tcp.Stats{Denied: 1}) || r.flows.Stats().Opened != 0 {
		t.Errorf("stats %+v", st)
	}
}

func TestTCPFlowLimit(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var closed atomic.Int32
	r := newRig(t, tcp.Config{Dialer: dialFunc(func(context.Context, *flow.Meta, string) (net.Conn, error) {
		return net.Dial("tcp", l.Addr().String())
	})}, flow.Config{MaxFlows: 1, Changed: func(n int) {
		if n == 0 {
			closed.Add(1)
		}
	}})
	first, err := r.dial(t, "192.0.2.1:80", patience)
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	io.WriteString(first, "x")
	if _, err := s.Read(make([]byte, 1)); err != nil { // it is under way
		t.Fatal(err)
	}
	if _, err := r.dial(t, "192.0.2.2:80", patience); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the application saw %v", err)
	}
	first.(*netstack.Conn).Reset()
	for closed.Load() == 0 {
		runtime.Gosched()
	}
	if st := r.tcp.Stats(); st != (tcp.Stats{Connected: 1, Limited: 1}) || r.flows.Stats().Refused != 1 {
		t.Errorf("stats %+v, flows %+v", st, r.flows.Stats())
	}
	if _, err := r.dial(t, "192.0.2.2:80", patience); err != nil {
		t.Errorf("after the first has ended: %v", err)
	}
}

// A flow that is killed while it is dialed looks refused.
func TestTCPKillDuringDial(t *testing.T) {
	dialing := make(chan struct{})
	r := newRig(t, tcp.Config{Dialer: dialFunc(func(ctx context.Context, _ *flow.Meta, _ string) (net.Conn, error) {
		close(dialing)
		<-ctx.Done()
		return nil, ctx.Err()
	})}, flow.Config{})
	saw := make(chan error, 1)
	go func() {
		_, err := r.dial(t, "192.0.2.1:80", patience)
		saw <- err
	}()
	<-dialing
	for _, f := range r.flows.Flows() {
		r.flows.Kill(f.ID)
	}
	if err := <-saw; !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the application saw %v", err)
	}
	r.drained(t)
}

// The dial's own time-out is the forwarder's.
func TestTCPDialTimeout(t *testing.T) {
	done := make(chan error, 1)
	r := newRig(t, tcp.Config{
		DialTimeout: time.Millisecond,
		Dialer: dialFunc(func(ctx context.Context, _ *flow.Meta, _ string) (net.Conn, error) {
			<-ctx.Done()
			done <- ctx.Err()
			return nil, ctx.Err()
		}),
	}, flow.Config{})
	if _, err := r.dial(t, "192.0.2.1:80", 100*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the application saw %v", err)
	}
	if err := <-done; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the dial ended with %v", err)
	}
	r.drained(t)
	if st := r.tcp.Stats(); st != (tcp.Stats{TimedOut: 1}) {
		t.Errorf("stats %+v", st)
	}
}

// An application that gives up while we dial gets no connection, and the one
// that we made is reset.
func TestTCPAppGivesUp(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialing, gone := make(chan struct{}), make(chan struct{})
	r := newRig(t, tcp.Config{Dialer: dialFunc(func(context.Context, *flow.Meta, string) (net.Conn, error) {
		close(dialing)
		<-gone
		return net.Dial("tcp", l.Addr().String())
	})}, flow.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-dialing
		cancel()
	}()
	if _, err := r.app.DialContext(ctx, nil, "tcp", "192.0.2.1:80"); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	close(gone)
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.SetDeadline(time.Now().Add(patience))
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the server read %v, want a reset", err)
	}
	r.drained(t)
	if st := r.tcp.Stats(); st != (tcp.Stats{Abandoned: 1}) {
		t.Errorf("stats %+v", st)
	}
}

// When all places are taken the oldest dial gives way to a new connection. Its
// application sees nothing, and its next SYN would be a new request.
func TestTCPOldestDialGivesWay(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialing, ended := make(chan struct{}), make(chan error, 2)
	r := newRig(t, tcp.Config{Dialer: dialFunc(func(ctx context.Context, _ *flow.Meta, address string) (net.Conn, error) {
		if address == "192.0.2.9:80" {
			return net.Dial("tcp", l.Addr().String())
		}
		dialing <- struct{}{}
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return nil, ctx.Err()
	})}, flow.Config{MaxFlows: 2})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	saw := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := r.app.DialContext(ctx, nil, "tcp", "192.0.2.1:80")
			saw <- err
		}()
		<-dialing
	}
	c, err := r.dial(t, "192.0.2.9:80", patience)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-ended; errors.Is(err, context.DeadlineExceeded) {
		t.Error("the dial that gave way ended by its time-out")
	}
	if st := r.flows.Stats(); st.Evicted != 1 || st.Refused != 0 {
		t.Errorf("flows %+v", st)
	}
	select {
	case err := <-saw:
		t.Errorf("an application saw %v", err)
	default:
	}
	cancel()
	c.(*netstack.Conn).Reset()
	for _, f := range r.flows.Flows() {
		r.flows.Kill(f.ID)
	}
	r.drained(t)
}
