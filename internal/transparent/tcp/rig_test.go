package tcp_test

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"netstackd/internal/epoll"
	"netstackd/internal/flow"
	"netstackd/internal/netstack"
	"netstackd/internal/relay"
	"netstackd/internal/transparent/tcp"
	"netstackd/tun/tuntest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// dialFunc is a tcp.Dialer.
type dialFunc func(ctx context.Context, m *flow.Meta, address string) (net.Conn, error)

func (d dialFunc) DialContext(ctx context.Context, m *flow.Meta, network, address string) (net.Conn, error) {
	if network != "tcp" {
		return nil, net.UnknownNetworkError(network)
	}
	return d(ctx, m, address)
}

// rig is an application's stack whose foreign connections a TCP forwarder
// ends, with a real relay and a dialer of the test's.
type rig struct {
	tcp   *tcp.Forwarder
	flows *flow.Registry
	app   *netstack.Stack
}

func newRig(t *testing.T, cfg tcp.Config, limits flow.Config) *rig {
	t.Helper()
	loop, err := epoll.New(0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- loop.Serve(ctx) }()
	r := &rig{flows: flow.NewRegistry(limits)}
	rel := relay.New(loop, relay.Config{})
	cfg.Relay, cfg.Flows = rel, r.flows
	r.tcp = tcp.New(cfg)
	a, b := tuntest.Pair(tuntest.Config{}, tuntest.Config{})
	r.app = start(t, a, netstack.Config{Addresses: prefixes("10.0.0.1/24", "fd00::1/64")})
	own := start(t, b, netstack.Config{Addresses: prefixes("10.0.0.2/24", "fd00::2/64"), Connect: r.tcp.Connect})
	t.Cleanup(func() {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		_ = r.flows.Drain(ended) // kills what is left
		rel.Wait()
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		r.app.Close()
		own.Close()
	})
	return r
}

func start(t *testing.T, dev *tuntest.Device, cfg netstack.Config) *netstack.Stack {
	t.Helper()
	s, err := netstack.New(dev)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(cfg); err != nil {
		t.Fatal(err)
	}
	return s
}

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func (r *rig) dial(t *testing.T, to string, patience time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := r.app.DialContext(ctx, nil, "tcp", to)
	if err == nil {
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(patience))
	}
	return c, err
}

// drained waits until no flow is open.
func (r *rig) drained(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := r.flows.Drain(ctx); err != nil {
		t.Fatalf("flows remain: %v", err)
	}
}
