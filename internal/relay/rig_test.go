//go:build linux

package relay_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"netstackd/internal/epoll"
	"netstackd/internal/flow"
	"netstackd/internal/netstack"
	"netstackd/internal/relay"
	"netstackd/tun/tuntest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = time.Minute

// The ways that bytes can move, named after the flow's two ends.
const (
	sockets    = "socket to socket"
	stackIn    = "stack to socket"
	stackOut   = "socket to stack"
	copied     = "copied"
	stackTwice = "stack to stack"
)

var kinds = []string{sockets, stackIn, stackOut, copied, stackTwice}

func eachKind(t *testing.T, test func(t *testing.T, r *rig, kind string)) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) { test(t, newRig(t), kind) })
	}
}

// A rig is a relay with all that it can relay between.
type rig struct {
	t     testing.TB
	relay *relay.Relay
	flows *flow.Registry

	app      *netstack.Stack // where clients and servers are
	ours     *netstack.Stack
	dialing  sync.Mutex
	requests chan *netstack.Request
	listener *net.TCPListener
}

func newRig(t testing.TB) *rig { return newRigWith(t, relay.Config{}) }

func newRigWith(t testing.TB, cfg relay.Config) *rig {
	t.Helper()
	loop, err := epoll.New(0)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, relay: relay.New(loop, cfg), flows: flow.NewRegistry(flow.Config{}), requests: make(chan *netstack.Request, 1)}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- loop.Serve(ctx) }()
	devA, devB := tuntest.Pair(tuntest.Config{Depth: 4096}, tuntest.Config{Depth: 4096})
	r.app = start(t, devA, netstack.Config{Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}})
	r.ours = start(t, devB, netstack.Config{
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24")},
		Connect:   func(q *netstack.Request) { r.requests <- q },
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.listener = l.(*net.TCPListener)
	t.Cleanup(func() {
		r.listener.Close()
		drained, cancel := context.WithCancel(context.Background())
		cancel() // kills what is left
		_ = r.flows.Drain(drained)
		r.relay.Wait()
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		r.app.Close()
		r.ours.Close()
	})
	return r
}

func start(t testing.TB, dev *tuntest.Device, cfg netstack.Config) *netstack.Stack {
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

// A peer is an end of a flow as its client or server has it.
type peer interface {
	net.Conn
	CloseWrite() error
}

// stackPair returns the two ends of a connection through the TUN: the far
// one's, and ours.
func (r *rig) stackPair() (far, near peer) {
	r.t.Helper()
	r.dialing.Lock()
	defer r.dialing.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	accepted := make(chan peer, 1)
	go func() {
		select {
		case q := <-r.requests:
			c, err := q.Accept(context.Background())
			if err != nil {
				r.t.Error(err)
			}
			accepted <- c
		case <-ctx.Done():
			accepted <- nil
		}
	}()
	c, err := r.app.DialContext(ctx, nil, "tcp", "192.0.2.1:80")
	if err != nil {
		r.t.Fatal(err)
	}
	return c.(peer), <-accepted
}

// socketPair is stackPair over the host's loopback.
func (r *rig) socketPair() (far, near peer) {
	r.t.Helper()
	r.dialing.Lock()
	defer r.dialing.Unlock()
	c, err := net.Dial("tcp", r.listener.Addr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	a, err := r.listener.AcceptTCP()
	if err != nil {
		r.t.Fatal(err)
	}
	return c.(*net.TCPConn), a
}

// opaque hides what a connection is.
type opaque struct{ *net.TCPConn }

// ends returns a client and a server and what lies between them.
func (r *rig) ends(kind string) (client, in, out, server peer) {
	r.t.Helper()
	switch kind {
	case stackIn, stackTwice:
		client, in = r.stackPair()
	default:
		client, in = r.socketPair()
	}
	switch kind {
	case stackOut, stackTwice:
		server, out = r.stackPair()
	default:
		server, out = r.socketPair()
	}
	if kind == copied {
		in, out = opaque{in.(*net.TCPConn)}, opaque{out.(*net.TCPConn)}
	}
	deadline := time.Now().Add(patience)
	for _, c := range []peer{client, server} {
		if err := c.SetDeadline(deadline); err != nil {
			r.t.Fatal(err)
		}
	}
	return client, in, out, server
}

// join starts a flow of the kind and returns its far ends.
func (r *rig) join(kind string) (client, server peer, f *flow.Flow) {
	r.t.Helper()
	client, in, out, server := r.ends(kind)
	f = r.open()
	r.relay.Join(f, in, out)
	r.t.Cleanup(func() {
		client.Close()
		server.Close()
	})
	return client, server, f
}

func (r *rig) open() *flow.Flow {
	r.t.Helper()
	f, err := r.flows.Open(flow.Meta{Network: "tcp"}, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return f
}

// wait waits until no flow is left.
func (r *rig) wait() {
	r.t.Helper()
	done := make(chan struct{})
	go func() {
		r.relay.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(patience):
		r.t.Fatalf("flows remain: %+v", r.relay.Stats())
	}
}

func reset(c peer) {
	if c, ok := c.(*netstack.Conn); ok {
		c.Reset()
		return
	}
	_ = c.(*net.TCPConn).SetLinger(0)
	c.Close()
}

func write(t testing.TB, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
}

// expect reads exactly s.
func expect(t testing.TB, c net.Conn, s string) {
	t.Helper()
	b := make([]byte, len(s))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != s {
		t.Fatalf("read %q, %v; want %q", b, err, s)
	}
}

func expectEOF(t testing.TB, c net.Conn) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("read %d bytes and %v, want EOF", n, err)
	}
}

func closeWrite(t testing.TB, c peer) {
	t.Helper()
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
}
