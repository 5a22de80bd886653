package publish_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"netstackd/internal/flow"
	"netstackd/internal/publish"
	"netstackd/internal/testnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// inside is what a sandbox is to a Server: where its UDP server is.
type inside struct {
	server *net.UDPConn // nil: no socket is bound
	dials  chan string  // each address dialed
}

func (i *inside) dial(ctx context.Context, network, address string) (net.Conn, error) {
	i.dials <- address
	if i.server == nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
	}
	var d net.Dialer
	return d.DialContext(ctx, network, i.server.LocalAddr().String())
}

func listenUDP(t *testing.T, address string) *net.UDPConn {
	t.Helper()
	c, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	bound(t, c)
	return c.(*net.UDPConn)
}

func bound(t *testing.T, c interface{ SetDeadline(time.Time) error }) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
}

// freePort is a port of the host that is free a moment ago.
func freePort(t *testing.T, address string) netip.AddrPort {
	t.Helper()
	c, err := net.ListenPacket("udp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return netip.AddrPortFrom(netip.MustParseAddr(address), c.LocalAddr().(*net.UDPAddr).AddrPort().Port())
}

// rig is a Server with one UDP port that leads to a server of the test.
type rig struct {
	*publish.Server
	inside
	flows *flow.Registry
	at    netip.AddrPort
}

func newRig(t *testing.T, listen string, server *net.UDPConn, adapt func(*publish.Config, *flow.Config)) *rig {
	t.Helper()
	r := &rig{at: freePort(t, listen), inside: inside{server: server, dials: make(chan string, 1000)}}
	cfg := publish.Config{
		Dial:   r.dial,
		Inside: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		Permit: func(*flow.Meta) error { return nil },
	}
	var flows flow.Config
	if adapt != nil {
		adapt(&cfg, &flows)
	}
	flows.EvictSession = func() bool { return r.Server.EvictSession() }
	r.flows = flow.NewRegistry(flows)
	cfg.Flows = r.flows
	var err error
	r.Server, err = publish.Listen(t.Context(), cfg, publish.Port{Network: "udp", Listen: r.at, Port: 53})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	r.Start()
	return r
}

// client is a socket connected to the published port, at an address of the host.
func (r *rig) client(t *testing.T, host string) *net.UDPConn {
	t.Helper()
	c, err := net.Dial("udp", netip.AddrPortFrom(netip.MustParseAddr(host), r.at.Port()).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	bound(t, c)
	return c.(*net.UDPConn)
}

func send(t *testing.T, c *net.UDPConn, payload string) {
	t.Helper()
	if _, err := c.Write([]byte(payload)); err != nil {
		t.Fatal(err)
	}
}

// receive reads a datagram at the server or a client.
func receive(t *testing.T, c *net.UDPConn) (string, netip.AddrPort) {
	t.Helper()
	buf := make([]byte, 65536)
	n, from, err := c.ReadFromUDPAddrPort(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n]), from
}

func want(t *testing.T, c *net.UDPConn, payload string) netip.AddrPort {
	t.Helper()
	got, from := receive(t, c)
	if got != payload {
		t.Fatalf("got %d bytes %.40q, want %d %.40q", len(got), got, len(payload), payload)
	}
	return from
}

func reply(t *testing.T, c *net.UDPConn, to netip.AddrPort, payload string) {
	t.Helper()
	if _, err := c.WriteToUDPAddrPort([]byte(payload), to); err != nil {
		t.Fatal(err)
	}
}

// Each client has a port of its own at the server, and gets its own answers, any
// number of them, from the address that it has sent to.
func TestUDPSessions(t *testing.T) {
	for _, tt := range []struct{ listen, host string }{
		{"127.0.0.1", "127.0.0.1"},
		{"::1", "::1"},
		{"0.0.0.0", "127.0.0.7"}, // not the address that the kernel would choose
		{"::", "127.0.0.7"},
		{"::", "::1"},
	} {
		t.Run(tt.listen+" "+tt.host, func(t *testing.T) {
			server := listenUDP(t, "127.0.0.1:0")
			r := newRig(t, tt.listen, server, nil)
			a, b := r.client(t, tt.host), r.client(t, tt.host)
			send(t, a, "from a")
			atA := want(t, server, "from a")
			send(t, b, "from b")
			atB := want(t, server, "from b")
			if atA == atB {
				t.Fatalf("both clients are %v to the server", atA)
			}
			big := strings.Repeat("x", 60000)
			reply(t, server, atB, "to b")
			reply(t, server, atA, "")
			reply(t, server, atA, big)
			want(t, b, "to b")
			want(t, a, "")
			want(t, a, big)
			send(t, a, "")
			send(t, a, big)
			if from := want(t, server, ""); from != atA {
				t.Errorf("a second datagram came from %v, the first from %v", from, atA)
			}
			want(t, server, big)
			testnet.Eventually(t, 10*time.Second, "two flows have counted all", func() bool {
				infos := r.flows.Flows()
				for _, i := range infos {
					wantUp, wantDown := int64(len("from b")), int64(len("to b"))
					if i.Meta.Source.Port() == a.LocalAddr().(*net.UDPAddr).AddrPort().Port() {
						wantUp, wantDown = int64(len("from a")+len(big)), int64(len(big))
					}
					if i.Meta.Inbound != flow.Published || i.Meta.Network != "udp" || i.Up != wantUp || i.Down != wantDown {
						return false
					}
				}
				return len(infos) == 2
			})
			r.Close()
			if n := r.flows.Len(); n != 0 {
				t.Errorf("%d flows after Close", n)
			}
		})
	}
}

// What comes before the session is open is not lost, and stays in order.
func TestUDPBurst(t *testing.T) {
	server := listenUDP(t, "127.0.0.1:0")
	release := make(chan struct{})
	r := newRig(t, "127.0.0.1", server, func(c *publish.Config, _ *flow.Config) {
		dial := c.Dial
		c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			<-release
			return dial(ctx, network, address)
		}
	})
	c := r.client(t, "127.0.0.1")
	for i := range 100 {
		send(t, c, fmt.Sprint(i))
	}
	close(release)
	for i := range 100 {
		want(t, server, fmt.Sprint(i))
	}
	if s := r.Stats(); s.Opened != 1 || s.Dropped != 0 {
		t.Errorf("%+v", s)
	}
}

// The least recently used session gives way, at the Server's own limit, at that
// of all flows and at that of a source.
func TestUDPSessionsAreBounded(t *testing.T) {
	for name, adapt := range map[string]func(*publish.Config, *flow.Config){
		"sessions":   func(c *publish.Config, _ *flow.Config) { c.MaxSessions = 2 },
		"flows":      func(_ *publish.Config, f *flow.Config) { f.MaxFlows = 2 },
		"per source": func(_ *publish.Config, f *flow.Config) { f.MaxPerSource = 2 },
	} {
		t.Run(name, func(t *testing.T) {
			server := listenUDP(t, "127.0.0.1:0")
			r := newRig(t, "127.0.0.1", server, adapt)
			a, b := r.client(t, "127.0.0.1"), r.client(t, "127.0.0.1")
			send(t, a, "a")
			atA := want(t, server, "a")
			send(t, b, "b")
			want(t, server, "b")
			send(t, a, "a again")
			want(t, server, "a again") // now b is the least recently used
			for i := range 50 {
				send(t, a, "a stays")
				if from := want(t, server, "a stays"); from != atA {
					t.Fatalf("client %d: a's session was replaced", i)
				}
				send(t, r.client(t, "127.0.0.1"), "new")
				want(t, server, "new")
			}
			if s := r.Stats(); s.Sessions != 2 || s.Evicted != 50 || s.Dropped != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// An idle session ends, and the client's next datagram begins another.
func TestUDPIdle(t *testing.T) {
	server := listenUDP(t, "127.0.0.1:0")
	empty := make(chan struct{}, 10)
	r := newRig(t, "127.0.0.1", server, func(c *publish.Config, f *flow.Config) {
		c.UDPTimeout = 20 * time.Millisecond
		f.Changed = func(n int) {
			if n == 0 {
				empty <- struct{}{}
			}
		}
	})
	c := r.client(t, "127.0.0.1")
	for i := range 2 {
		send(t, c, "hello")
		reply(t, server, want(t, server, "hello"), "answer")
		<-empty
		if s := r.Stats(); s.Expired != uint64(i)+1 || s.Sessions != 0 {
			t.Errorf("%+v", s)
		}
		want(t, c, "answer")
	}
}

// A closed port costs one look for the server in each interval, however many clients
// ask. When the server is there, they reach it.
func TestUDPNoServer(t *testing.T) {
	r := newRig(t, "127.0.0.1", nil, nil)
	for range 20 {
		send(t, r.client(t, "127.0.0.1"), "anyone?")
	}
	testnet.Eventually(t, 10*time.Second, "all are refused", func() bool {
		s := r.Stats()
		return s.Dropped >= 20 && s.Sessions == 0
	})
	if n := len(r.dials); n > 5 {
		t.Errorf("%d looks for the server", n)
	}
	if n := r.flows.Len(); n != 0 {
		t.Errorf("%d flows", n)
	}
}

// A server that is gone, and comes back at another address, is found again by a
// client that never pauses.
func TestUDPServerReturns(t *testing.T) {
	first, second := listenUDP(t, "127.0.0.1:0"), listenUDP(t, "127.0.0.1:0")
	to := make(chan *net.UDPConn, 1)
	r := newRig(t, "127.0.0.1", nil, func(c *publish.Config, _ *flow.Config) {
		c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			server := <-to
			to <- server
			if !strings.HasPrefix(address, ":") {
				var d net.Dialer // the address of before
				return d.DialContext(ctx, network, address)
			}
			return net.Dial(network, server.LocalAddr().String())
		}
	})
	to <- first
	c := r.client(t, "127.0.0.1")
	send(t, c, "hello")
	want(t, first, "hello")
	<-to
	to <- second
	first.Close()
	testnet.Eventually(t, 10*time.Second, "the second server is reached", func() bool {
		send(t, c, "hello")
		_ = second.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		_, _, err := second.ReadFromUDPAddrPort(make([]byte, 10))
		return err == nil
	})
}

// A killed flow ends its session.
func TestUDPKill(t *testing.T) {
	server := listenUDP(t, "127.0.0.1:0")
	r := newRig(t, "127.0.0.1", server, nil)
	c := r.client(t, "127.0.0.1")
	send(t, c, "hello")
	before := want(t, server, "hello")
	r.flows.Kill(r.flows.Flows()[0].ID)
	testnet.Eventually(t, 10*time.Second, "the flow is gone", func() bool { return r.flows.Len() == 0 })
	send(t, c, "hello")
	if after := want(t, server, "hello"); after == before {
		t.Error("the session goes on")
	}
}

// Close passes on the answers that have come, and is bounded while the sandbox
// answers no dial.
func TestUDPClose(t *testing.T) {
	server := listenUDP(t, "127.0.0.1:0")
	hang := make(chan struct{})
	r := newRig(t, "127.0.0.1", server, func(c *publish.Config, _ *flow.Config) {
		dial := c.Dial
		first := true
		c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if first {
				first = false
				return dial(ctx, network, address)
			}
			close(hang)
			<-ctx.Done()
			return nil, ctx.Err()
		}
	})
	c := r.client(t, "127.0.0.1")
	send(t, c, "hello")
	at := want(t, server, "hello")
	send(t, r.client(t, "127.0.0.1"), "hello")
	<-hang
	for i := range 100 {
		reply(t, server, at, fmt.Sprint(i))
	}
	begin := time.Now()
	r.Close()
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("Close took %v", took)
	}
	for i := range 100 {
		want(t, c, fmt.Sprint(i))
	}
	if n := r.flows.Len(); n != 0 {
		t.Errorf("%d flows", n)
	}
}

// A port that is taken is an error that says which.
func TestListenTaken(t *testing.T) {
	taken := listenUDP(t, "127.0.0.1:0")
	at := taken.LocalAddr().(*net.UDPAddr).AddrPort()
	_, err := publish.Listen(t.Context(), publish.Config{}, publish.Port{Network: "udp", Listen: at, Port: 53})
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.HasPrefix(err.Error(), at.String()+":53/udp: ") {
		t.Error(err)
	}
}
