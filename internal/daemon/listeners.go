package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"netstackd/internal/config"
	"netstackd/internal/flow"
	"netstackd/internal/hostnet"
	"netstackd/internal/netstack"
	"netstackd/socks"
	"netstackd/socks/auth"
)

// listeners are the SOCKS listeners, on the host and inside the stack.
type listeners struct {
	engine   *engine
	cfg      config.Config
	carriage carriage
	auth     *auth.Credentials
	names    *hostnet.Dialer // the host's own resolver

	host, stack []net.Listener
	cancel      context.CancelFunc
	serving     sync.WaitGroup
}

// listen opens all listeners. On error, close gives back those it opened.
func (f *listeners) listen() error {
	for _, addr := range f.cfg.SOCKS {
		ln, err := hostnet.ListenLocal(context.Background(), addr, f.cfg.KeepAlive)
		if err != nil {
			return listenError(addr, err)
		}
		f.host = append(f.host, ln)
	}
	if f.cfg.SOCKSStack == 0 {
		return nil
	}
	for _, p := range stackAddresses(f.cfg) {
		ln, err := f.engine.stack.ListenTCP(netip.AddrPortFrom(p.Addr(), f.cfg.SOCKSStack))
		if err != nil {
			return fmt.Errorf("--socks-stack %d: %w", f.cfg.SOCKSStack, err)
		}
		f.stack = append(f.stack, ln)
	}
	return nil
}

func listenError(addr string, err error) error {
	mend := "choose another address"
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		mend = "another program has this port; choose another, or off for none"
	case errors.Is(err, syscall.EACCES):
		mend = "ports below 1024 need root"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		mend = "this host has no such address"
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	return fmt.Errorf("--socks %s: %w; %s", addr, err, mend)
}

// start serves the listeners.
func (f *listeners) start() {
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	e := f.engine
	base := socks.Config{
		Name:         "netstackd",
		Relay:        relayFlows{e.relay},
		DialTimeout:  f.cfg.DialTimeout,
		UDPTimeout:   f.cfg.UDPTimeout,
		DrainTimeout: f.cfg.Drain,
		// Clients without a flow have a share of what the flows have.
		MaxHandshakes: min(16384, max(64, e.maxFlows/2)),
		MaxIdle:       min(4096, max(64, e.maxFlows/4)),
	}
	if f.auth != nil {
		base.Auth = f.auth
	}
	upstream := f.carriage.host == nil
	if !upstream {
		base.Resolver = f.carriage.host
	}
	hostCfg := base
	onHost := &inbound{e, flow.SOCKSHost, f.carriage.dialer, upstream}
	if f.cfg.SOCKSEgress == config.EgressStack {
		hostCfg.Resolver, onHost.dialer, onHost.upstream = f.names, stackEgress{e.stack, f.names}, false
	}
	host := onHost.server(hostCfg)
	e.routes.SetListeners(addrPorts(f.host), host.Relays)

	stackCfg := base
	stackCfg.ListenUDP = func(local netip.Addr) (net.PacketConn, error) {
		return e.stack.ListenUDP(netip.AddrPortFrom(local, 0))
	}
	onStack := &inbound{e, flow.SOCKSStack, f.carriage.dialer, upstream}

	// Connections of the stack have no descriptor.
	evict := host.Spare
	e.evictClient.Store(&evict)
	f.serve(ctx, host, f.host)
	f.serve(ctx, onStack.server(stackCfg), f.stack)

	if f.cfg.Reload != nil {
		f.serving.Go(func() { f.reload(ctx) })
	}
}

func (f *listeners) serve(ctx context.Context, s *socks.Server, on []net.Listener) {
	for _, ln := range on {
		f.serving.Go(func() {
			if err := s.Serve(ctx, ln); err != nil && ctx.Err() == nil {
				f.engine.fail(err)
			}
		})
	}
}

// stackEgress carries flows on through the stack, out of the TUN, for the host to
// route. Names are looked up past the TUN.
type stackEgress struct {
	*netstack.Stack
	names *hostnet.Dialer
}

// DialContext implements dialer.
func (s stackEgress) DialContext(ctx context.Context, m *flow.Meta, network, address string) (net.Conn, error) {
	return s.names.DialBy(ctx, m, network, address, s.Stack.DialContext)
}

// reload reads the credentials again each time it is asked to.
func (f *listeners) reload(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.cfg.Reload:
			reread(f.auth, f.cfg.AuthFile, f.engine.log)
		}
	}
}

// stop ends accepting and the handshakes under way.
func (f *listeners) stop() {
	if f.cancel != nil {
		f.cancel()
	}
	for _, ln := range slices.Concat(f.host, f.stack) {
		ln.Close()
	}
}

// close stops, and waits for clients that have a time to finish in. Flows that are
// joined live on.
func (f *listeners) close() {
	f.stop()
	f.serving.Wait()
}
