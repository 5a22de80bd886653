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
	"syscall"
	"time"

	"netstackd/internal/epoll"
	"netstackd/internal/flow"
	"netstackd/internal/forward"
	"netstackd/internal/hostnet"
	"netstackd/internal/netstack"
	"netstackd/internal/relay"
	"netstackd/link"
)

// dialer carries flows on, with the three verbs that socks and forward know.
type dialer interface {
	DialContext(ctx context.Context, m *flow.Meta, network, address string) (net.Conn, error)
	ListenPacket(ctx context.Context, m *flow.Meta, network, address string) (net.PacketConn, error)
	Listen(ctx context.Context, m *flow.Meta, network, address string) (net.Listener, error)
}

// engine is the data path between one TUN and whatever carries its flows on:
// what run and exec have in common.
type engine struct {
	log   *slog.Logger
	flows *flow.Registry
	loop  *epoll.Loop
	relay *relay.Relay
	stack *netstack.Stack
	tcp   *forward.TCP
	udp   *forward.UDP
	echo  *forward.Echo // nil with an upstream

	reclaim reclaim
	serving sync.WaitGroup
	failed  chan error // the first failure of a goroutine
	cancel  []context.CancelFunc
}

// carriage is how an engine's flows are carried on.
type carriage struct {
	dialer dialer
	// host is the host's own network when flows go straight out; nil with an
	// upstream, which has no pings and whose sockets take a round trip to open.
	host *hostnet.Dialer
	// allow says who may use the TUN; nil = everybody.
	allow func(src netip.Addr) bool
	// refuse says where flows may not go; nil = anywhere. The dialer holds to it
	// by itself; packets that need no dial are held to it by gate.
	refuse policy
}

// restrict makes the carriage go nowhere that refuse names; nil changes nothing.
func (c *carriage) restrict(refuse policy) {
	if refuse == nil {
		return
	}
	c.refuse = refuse
	d := &restricted{dialer: c.dialer, refuse: refuse}
	if c.host != nil {
		d.resolver = c.host
	}
	c.dialer = d
}

// newEngine makes the parts that need no carriage yet. It owns dev.
func newEngine(cfg Config, dev link.Device, log *slog.Logger) (*engine, error) {
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
	e.reclaim.free = func() {
		runtime.GC() // pools empty over two collections; this is the first
		debug.FreeOSMemory()
	}
	e.relay = relay.New(loop)
	mem := &memory{budget: cfg.MaxMemory, most: cfg.tcp().LargestBuffer(), apply: stack.LimitBuffers}
	e.flows = flow.NewRegistry(flow.Config{
		MaxFlows:     min(cfg.MaxFlows, mem.maxFlows()),
		MaxPerSource: maxPerClient,
		Reclaim:      e.spare,
		Changed: func(flows int) {
			mem.changed(flows)
			e.reclaim.changed(flows)
		},
	})
	return e, nil
}

// spare ends the datagram session that has been quiet for longest: they outlive
// their use by minutes, which no connection should be refused for.
func (e *engine) spare() bool {
	return e.udp != nil && e.udp.Reclaim() || e.echo != nil && e.echo.Reclaim()
}

// start runs the data path.
func (e *engine) start(cfg Config, c carriage) error {
	ctx, cancel := context.WithCancel(context.Background())
	e.onClose(cancel)
	e.tcp = forward.NewTCP(forward.TCPConfig{
		Dialer:      c.dialer,
		Relay:       e.relay,
		Flows:       e.flows,
		DialTimeout: cfg.DialTimeout,
		Allow:       c.allowSource,
		Log:         e.log,
	})
	stackAddrs := stackAddresses(cfg)
	router := make([]netip.Addr, len(stackAddrs))
	for i, p := range stackAddrs {
		router[i] = p.Addr()
	}
	e.udp = forward.NewUDP(e.stack.Link(), c.dialer, e.loop, e.flows, forward.UDPConfig{
		Timeout: cfg.UDPTimeout,
		Inline:  c.host != nil,
		Router:  router,
		Logger:  e.log,
	})
	packets := &forward.Packets{UDP: e.udp}
	if c.host != nil {
		e.echo = forward.NewEcho(e.stack.Link(), pinger(c.host, e.log), e.loop, e.flows, forward.EchoConfig{
			Router: router,
			Logger: e.log,
		})
		packets.Echo = e.echo
		e.serve(func() error { return e.echo.Serve(ctx) })
	}
	e.serve(func() error { return e.loop.Serve(ctx) })
	e.serve(func() error { return e.udp.Serve(ctx) })
	err := e.stack.Start(netstack.Config{
		Addresses: stackAddrs,
		TCP:       cfg.tcp(),
		Packets:   &gate{packets, c, e.stack},
		Connect:   e.tcp.Connect,
	})
	if err != nil {
		return fmt.Errorf("stack: %w", err)
	}
	return nil
}

// pinger opens the host's ping sockets for forward. That it may not is said
// once.
func pinger(d *hostnet.Dialer, log *slog.Logger) forward.ListenPing {
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

// serve runs one of the engine's goroutines; its failure is the engine's.
func (e *engine) serve(f func() error) {
	e.serving.Go(func() {
		if err := f(); err != nil {
			e.fail(err)
		}
	})
}

// onClose has close end what runs under a context.
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

// drain lets flows finish for a while, then resets those that are left.
// Datagrams have no end: their sessions are over when they have been quiet for
// a moment.
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
		e.log.Info("drain: flows were cut", "after", d, "open", open)
	}
}

// settle waits, for a while, until what an ended command has sent is in the
// hands of the host's kernel. Nobody waits for its answers, nor for datagrams.
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

// unsent reports whether a flow may have bytes of the command under way.
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
	e.reclaim.stop()
}

// stackAddresses are the stack's own addresses, next to the host's.
func stackAddresses(cfg Config) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range cfg.Address {
		out = append(out, netip.PrefixFrom(StackAddr(p), p.Bits()))
	}
	return out
}

// socksDialer is the carriage for a SOCKS server.
func (c *carriage) socksDialer() dialer {
	if d, ok := c.dialer.(*restricted); ok {
		return judgedPackets{d}
	}
	return c.dialer
}

func (c *carriage) allowSource(src, _ netip.AddrPort) bool {
	return c.allow == nil || c.allow(src.Addr())
}

// gate keeps out the packets of flows that may not run, and says so to whoever
// sent them.
type gate struct {
	*forward.Packets
	carriage
	stack *netstack.Stack
}

func (g *gate) HandlePacket(p *netstack.Packet) bool {
	// An upstream has no way to carry echo requests on: better known than waited for.
	carried := g.Echo != nil || !echoRequest(p)
	if carried && (g.allow == nil || g.allow(p.Src)) && (g.refuse == nil || !g.refuse(p.Src, p.Dst)) {
		return g.Packets.HandlePacket(p)
	}
	if p.Proto != netstack.ProtoUDP && !echoRequest(p) {
		return true // no ICMP error answers another (RFC 1122 §3.2.2)
	}
	quote := append(p.Network[:len(p.Network):len(p.Network)], p.Transport...)
	g.stack.WriteUnreachable(p.Dst, quote, netstack.AdminProhibited)
	return true
}

func echoRequest(p *netstack.Packet) bool {
	switch p.Proto {
	case netstack.ProtoICMP:
		return p.Transport[0] == 8 // RFC 792
	case netstack.ProtoICMPv6:
		return p.Transport[0] == 128 // RFC 4443 §4.1
	}
	return false
}
