package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"netstackd/internal/config"
	"netstackd/internal/epoll"
	"netstackd/internal/flow"
	"netstackd/internal/hostnet"
	"netstackd/internal/memory"
	"netstackd/internal/netstack"
	"netstackd/internal/publish"
	"netstackd/internal/relay"
	"netstackd/internal/route"
	"netstackd/internal/transparent/datagram"
	"netstackd/internal/transparent/intercept"
	"netstackd/internal/transparent/tcp"
	"netstackd/link"
)

// dialer opens the outbound side of flows, for the SOCKS servers and the
// transparent inbounds.
type dialer interface {
	DialContext(ctx context.Context, m *flow.Meta, network, address string) (net.Conn, error)
	ListenPacket(ctx context.Context, m *flow.Meta, network, address string) (net.PacketConn, error)
	Listen(ctx context.Context, m *flow.Meta, network, address string) (net.Listener, error)
}

// engine is the data path from one TUN to the outbounds. run and exec share it.
type engine struct {
	log    *slog.Logger
	routes *route.Table // set before start
	flows  *flow.Registry
	loop   *epoll.Loop
	relay  *relay.Relay
	stack  *netstack.Stack
	tcp    *tcp.Forwarder
	udp    *datagram.UDP
	echo   *datagram.Echo // nil with an upstream
	dns    *intercept.DNS // what is sent to port 53, wherever

	published *publish.Server // of exec: set before start

	memory      *memory.Budget
	maxFlows    int
	evictClient atomic.Pointer[func() bool] // ends a SOCKS or HTTP client without a flow
	releaser    memory.Releaser
	serving     sync.WaitGroup
	failed      chan error // the first failure of a goroutine
	cancel      []context.CancelFunc
}

// carriage is the outbound side of an engine.
type carriage struct {
	dialer dialer
	// host dials the host's own network. It is nil with an upstream: an upstream
	// carries no pings, and opening a UDP association takes a round trip.
	host *hostnet.Dialer
	// loop knows the upstream's own flows; nil where it can have none.
	loop *loop
}

// newEngine makes the parts that do not need the outbound side. It owns dev.
func newEngine(cfg config.Config, dev link.Device, log *slog.Logger) (*engine, error) {
	loop, err := epoll.New(0)
	if err != nil {
		dev.Close()
		return nil, err
	}
	stack, err := netstack.NewTuned(dev, link.Config{QueueLen: cfg.Tune.QueueLen, Batch: cfg.Tune.Batch})
	if err != nil {
		loop.Close()
		dev.Close()
		return nil, err
	}
	e := &engine{log: log, loop: loop, stack: stack, failed: make(chan error, 1)}
	e.releaser.Free = func() {
		runtime.GC() // pools empty over two collections; this is the first
		debug.FreeOSMemory()
	}
	e.memory = memory.NewBudget(cfg.MaxMemory, memory.TCP(), tcpConfig(cfg).LargestBuffer(), func(b relay.Buffers) {
		e.relay.SetBuffers(b)
		stack.LimitBuffers(b.Stack)
	})
	e.relay = relay.New(loop, relay.Config{Waiting: e.memory.SetWaiting, Proven: e.memory.SetProven})
	e.maxFlows = min(cfg.MaxFlows, memory.MaxFlows(cfg.MaxMemory))
	e.flows = flow.NewRegistry(flow.Config{
		MaxFlows:     e.maxFlows,
		MaxPerSource: maxPerClient,
		Remote:       func(a netip.Addr) bool { return e.routes.Remote(a) },
		EvictSession: e.evictSession,
		Changed: func(flows int) {
			e.memory.SetFlows(flows)
			e.releaser.SetFlows(flows)
		},
	})
	return e, nil
}

// evictSession ends the datagram session that has been idle for longest. A session
// outlives its use by minutes, and a new connection is worth more.
func (e *engine) evictSession() bool {
	return e.udp != nil && e.udp.EvictSession() || e.echo != nil && e.echo.EvictSession() ||
		e.published != nil && e.published.EvictSession()
}

// evictDescriptor frees a descriptor: it ends a client that has no flow yet, or
// else a flow.
func (e *engine) evictDescriptor() bool {
	if evict := e.evictClient.Load(); evict != nil && (*evict)() {
		return true
	}
	return e.flows.Evict()
}

// start runs the data path.
func (e *engine) start(cfg config.Config, c carriage) error {
	ctx, cancel := context.WithCancel(context.Background())
	e.onClose(cancel)
	e.dns = intercept.NewDNS(e.stack.Link(), func(network string, client, server netip.AddrPort) bool {
		return !c.loop.closes(network, client, server)
	})
	e.tcp = tcp.New(tcp.Config{
		Dialer:      c.dialer,
		Relay:       e.relay,
		Flows:       e.flows,
		DialTimeout: cfg.DialTimeout,
		Routes:      e.routes,
		DNS:         e.dns,
		Log:         e.log,
	})
	stackAddrs := stackAddresses(cfg)
	router := make([]netip.Addr, len(stackAddrs))
	for i, p := range stackAddrs {
		router[i] = p.Addr()
	}
	e.udp = datagram.NewUDP(e.stack.Link(), c.dialer, e.loop, e.flows, datagram.UDPConfig{
		Timeout:    cfg.UDPTimeout,
		Inline:     c.host != nil,
		KeepPort:   e.keepsPort,
		Router:     router,
		DNS:        e.dns,
		ErrorLimit: e.stack.ErrorLimit(),
		Logger:     e.log,
	})
	packets := &datagram.Packets{UDP: e.udp, Routes: e.routes, Refuse: e.stack.WriteUnreachable}
	if c.host != nil {
		e.echo = datagram.NewEcho(e.stack.Link(), pinger(c.host, e.log), e.loop, e.flows, datagram.EchoConfig{
			Router:     router,
			ErrorLimit: e.stack.ErrorLimit(),
			Logger:     e.log,
		})
		packets.Echo = e.echo
		e.serve(func() error { return e.echo.Serve(ctx) })
	}
	e.serve(func() error { return e.loop.Serve(ctx) })
	e.serve(func() error { return e.udp.Serve(ctx) })
	err := e.stack.Start(netstack.Config{
		Addresses: stackAddrs,
		TCP:       tcpConfig(cfg),
		Packets:   packets,
		Connect:   e.tcp.Connect,
	})
	if err != nil {
		return fmt.Errorf("stack: %w", err)
	}
	e.memory.Update()
	return nil
}

// ikePort is the port of IKE. Peers that know no NAT traversal answer to it alone.
const ikePort = 500

// keepsPort reports whether the outbound socket of a UDP session gets the
// application's source port. That is for gateway clients and the command of exec: a
// program of this host occupies its port itself. Ports below 1024 other than IKE's
// are left alone: a client's NTP query from port 123 would otherwise keep this
// host's NTP server from starting.
func (e *engine) keepsPort(src netip.AddrPort) bool {
	return (src.Port() >= 1024 || src.Port() == ikePort) && !e.routes.Local(src.Addr())
}

// pinger opens the host's ping sockets for the echo inbound. A refusal by the
// kernel is logged once.
func pinger(d *hostnet.Dialer, log *slog.Logger) datagram.ListenPing {
	var once sync.Once
	return func(ctx context.Context, _ *flow.Meta, network string) (net.PacketConn, bool, error) {
		p, err := d.ListenPing(ctx, network)
		if errors.Is(err, syscall.EPERM) {
			once.Do(func() { log.Warn("echo requests are refused", "err", err) })
		}
		if err != nil {
			return nil, false, err
		}
		return p.PacketConn, p.Raw, nil
	}
}

// serve runs one of the engine's goroutines. Its error ends the engine.
func (e *engine) serve(f func() error) {
	e.serving.Go(func() {
		if err := f(); err != nil {
			e.fail(err)
		}
	})
}

// onClose registers a context that close cancels.
func (e *engine) onClose(cancel context.CancelFunc) { e.cancel = append(e.cancel, cancel) }

// fail reports a failure that ends the engine. Only the first counts.
func (e *engine) fail(err error) {
	select {
	case e.failed <- err:
	default:
	}
}

// wait returns when ctx ends, with nil, or when something failed.
func (e *engine) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-e.failed:
		return err
	case <-e.stack.Done():
		return e.stack.Err()
	}
}

// drain lets flows finish for at most d, then resets those that are left. A
// datagram session counts as finished once it has been idle for a moment.
func (e *engine) drain(d time.Duration) {
	if e.udp != nil {
		e.udp.Drain()
	}
	if e.echo != nil {
		e.echo.Drain()
	}
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	open := e.flows.Len()
	if err := e.flows.Drain(ctx); errors.Is(err, context.DeadlineExceeded) {
		e.log.Info("drain: flows were cut when the time was up", "open", open)
	}
}

// settle waits, at most d, until the host's kernel has what the ended command sent.
// It waits neither for answers nor for datagrams.
func (e *engine) settle(d time.Duration) {
	deadline := time.After(d)
	look := time.NewTicker(settleLook)
	defer look.Stop()
	for slices.ContainsFunc(e.flows.Flows(), unsent) {
		select {
		case <-deadline:
			return
		case <-look.C:
		}
	}
}

const settleLook = 5 * time.Millisecond

// unsent reports whether bytes of the command may still be on their way.
func unsent(f flow.Info) bool {
	if f.Meta.Inbound == flow.Published { // the command is the destination
		return f.DownOpen
	}
	return f.UpOpen
}

// close stops the data path and waits for it. Flows that are left are reset.
func (e *engine) close() {
	e.drain(0)
	e.relay.Wait()
	e.stack.Close()
	for _, cancel := range e.cancel {
		cancel()
	}
	e.serving.Wait()
	e.loop.Close()
	e.releaser.Stop()
}

// stackAddresses are the stack's own addresses, next to the host's.
func stackAddresses(cfg config.Config) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range cfg.Address {
		out = append(out, netip.PrefixFrom(config.StackAddr(p), p.Bits()))
	}
	return out
}
