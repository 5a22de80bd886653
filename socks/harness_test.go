package socks_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"netstackd/internal/epoll"
	"netstackd/internal/flow"
	"netstackd/internal/relay"
	"netstackd/socks"
	"netstackd/socks/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hostDialer dials through the host's kernel.
type hostDialer struct {
	hosts map[string]string // names and what they stand for
}

func (d hostDialer) resolve(address string) string {
	host, port, err := net.SplitHostPort(address)
	if ip, ok := d.hosts[host]; err == nil && ok {
		return net.JoinHostPort(ip, port)
	}
	return address
}

// DialContext has no route to the Internet, whatever the machine has: BINDs
// listen on loopback.
func (d hostDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	address = d.resolve(address)
	if address == "198.41.0.4:9" || address == "[2001:503:ba3e::2:30]:9" {
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ENETUNREACH}
	}
	var nd net.Dialer
	return nd.DialContext(ctx, network, address)
}

func (d hostDialer) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	var lc net.ListenConfig
	return lc.ListenPacket(ctx, network, address)
}

func (d hostDialer) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	var lc net.ListenConfig
	return lc.Listen(ctx, network, address)
}

func (d hostDialer) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if ip, ok := d.hosts[host]; ok {
		return []netip.Addr{netip.MustParseAddr(ip)}, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// dialFunc answers DialContext itself and leaves the rest to the host.
type dialFunc struct {
	hostDialer
	dial func(ctx context.Context, network, address string) (net.Conn, error)
}

func (d dialFunc) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return d.dial(ctx, network, address)
}

// refuseIf is a rule that refuses the requests for which bad holds.
func refuseIf(bad func(r *socks.Request) bool) func(r *socks.Request) error {
	return func(r *socks.Request) error {
		if bad(r) {
			return errors.New("by the test's rule")
		}
		return nil
	}
}

// proxy is a running server.
type proxy struct {
	*socks.Server
	addr  string // host:port
	flows *flow.Registry
	relay *relay.Relay
	stop  func() // ends Serve and waits for it
}

// open registers a request as the daemon does.
func (p *proxy) open(r *socks.Request, kill func()) (socks.Flow, error) {
	m := flow.Meta{Network: r.Network(), Source: r.Source, Dest: r.Dest.AddrPort(), User: r.User}
	open := p.flows.OpenPending
	if r.Command == wire.Associate {
		open = p.flows.Open
	}
	f, err := open(m, kill)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// joiner is a relay that gets its flows from proxy.open.
type joiner struct{ *relay.Relay }

func (j joiner) Join(f socks.Flow, inbound, outbound net.Conn) {
	j.Relay.Join(f.(*flow.Flow), inbound, outbound)
}

// start runs a server on an address of the loopback interface, ends it with
// the test, and checks that nothing of it is left.
func start(t testing.TB, d socks.Dialer, cfg socks.Config) *proxy {
	t.Helper()
	return startOn(t, "127.0.0.1:0", d, cfg)
}

func startOn(t testing.TB, address string, d socks.Dialer, cfg socks.Config) *proxy {
	t.Helper()
	return startLimited(t, address, d, cfg, flow.Config{})
}

func startLimited(t testing.TB, address string, d socks.Dialer, cfg socks.Config, limits flow.Config) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	loop, err := epoll.New(2)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: ln.Addr().String(), flows: flow.NewRegistry(limits), relay: relay.New(loop, relay.Config{})}
	cfg.Dialer = func(*socks.Request) socks.Dialer { return d }
	cfg.Open = p.open
	cfg.Relay = joiner{p.relay}
	p.Server = socks.NewServer(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	loopCtx, loopCancel := context.WithCancel(context.Background())
	var serve, loops sync.WaitGroup
	serve.Go(func() {
		if err := p.Serve(ctx, ln); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	loops.Go(func() { loop.Serve(loopCtx) })
	p.stop = sync.OnceFunc(func() {
		cancel()
		serve.Wait()
	})
	t.Cleanup(func() {
		p.stop()
		killed, kill := context.WithTimeout(context.Background(), 5*time.Second)
		kill()
		p.flows.Drain(killed)
		p.relay.Wait()
		loopCancel()
		loops.Wait()
		loop.Close()
		if n := p.flows.Len(); n != 0 {
			t.Errorf("%d flows left", n)
		}
	})
	return p
}

// echo answers every connection with what it sends, up to its FIN.
func echo(t testing.TB) string {
	t.Helper()
	return serveTCP(t, "127.0.0.1:0", func(c net.Conn) { io.Copy(c, c) })
}

// serveTCP runs handle for every connection; its return closes it.
func serveTCP(t testing.TB, address string, handle func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := make(map[net.Conn]bool)
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			wg.Go(func() {
				handle(c)
				c.Close()
				mu.Lock()
				delete(open, c)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return ln.Addr().String()
}

// dial connects to address and closes with the test.
func dial(t testing.TB, address string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}

func send(t testing.TB, c net.Conn, b string) {
	t.Helper()
	if _, err := io.WriteString(c, b); err != nil {
		t.Fatal(err)
	}
}

// want reads exactly what is expected.
func want(t testing.TB, c io.Reader, text string) {
	t.Helper()
	b := make([]byte, len(text))
	n, err := io.ReadFull(c, b)
	if err != nil || string(b) != text {
		t.Fatalf("read %d bytes, %.100q, %v; want %d, %.100q", n, b[:n], err, len(text), text)
	}
}

// wantEOF expects a FIN and nothing before it.
func wantEOF(t testing.TB, c io.Reader) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Fatalf("read %d bytes, %v; want EOF", n, err)
	}
}

// request5 is a SOCKS5 request for host:port.
func request5(t testing.TB, cmd wire.Command, hostport string) string {
	t.Helper()
	a, err := wire.ParseHostPort(hostport)
	if err != nil {
		t.Fatal(err)
	}
	b, err := wire.Request{Command: cmd, Addr: a}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// reply5 reads a SOCKS5 reply.
func reply5(t testing.TB, c io.Reader) wire.Response {
	t.Helper()
	var b []byte
	for {
		r, _, err := wire.ParseResponse(b)
		if err == nil {
			return r
		}
		if err != io.ErrUnexpectedEOF {
			t.Fatal(err)
		}
		var next [1]byte
		if _, err := c.Read(next[:]); err != nil {
			t.Fatalf("reply ends after %x: %v", b, err)
		}
		b = append(b, next[0])
	}
}

// socks5 makes a handshake without authentication and expects the reply.
func socks5(t testing.TB, c net.Conn, cmd wire.Command, hostport string, reply wire.Reply) wire.Response {
	t.Helper()
	send(t, c, "\x05\x01\x00")
	want(t, c, "\x05\x00")
	send(t, c, request5(t, cmd, hostport))
	r := reply5(t, c)
	if r.Reply != reply {
		t.Fatalf("%v %s: reply %q, want %q", cmd, hostport, r.Reply, reply)
	}
	return r
}

// eventually waits for a condition that no event tells of.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("never: %s", what)
		}
	}
}

// closedPort returns an address that refuses connections.
func closedPort(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func port(hostport string) string { return hostport[strings.LastIndexByte(hostport, ':')+1:] }
