package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"netstackd/internal/flow"
	"netstackd/internal/hostnet"
	"netstackd/internal/sandbox"
)

// published is the host's ports that lead to a sandboxed command's.
type published struct {
	engine    *engine
	sb        *sandbox.Sandbox
	inside    []netip.Addr
	listeners []net.Listener
	cancel    context.CancelFunc
	serving   sync.WaitGroup
}

// publish listens for --publish.
func publish(e *engine, sb *sandbox.Sandbox, cfg Config) (*published, error) {
	ctx, cancel := context.WithCancel(context.Background())
	// The command's server may listen on all addresses, on loopback, or on the
	// TUN's: they are tried in this order.
	p := &published{engine: e, sb: sb, cancel: cancel, inside: []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}}
	for _, a := range cfg.Address {
		p.inside = append(p.inside, a.Addr())
	}
	for _, pub := range cfg.Exec.Publish {
		ln, err := hostnet.ListenLocal(ctx, pub.Listen.String(), cfg.KeepAlive)
		if err != nil {
			p.close()
			return nil, fmt.Errorf("--publish %s: %w; choose another address or port", pub.Listen, err)
		}
		p.listeners = append(p.listeners, ln)
		p.serving.Go(func() { p.accept(ctx, ln, pub.Port) })
	}
	return p, nil
}

// accept takes connections until the listener closes. An error of accept(2) is
// one connection's (ECONNABORTED) or passes (EMFILE, ENOBUFS): the command and
// its other traffic go on, and what waits in the kernel's backlog is not lost.
func (p *published) accept(ctx context.Context, ln net.Listener, port uint16) {
	var pause time.Duration
	for {
		in, err := ln.Accept()
		if err == nil {
			pause = 0
			p.serving.Go(func() { p.carry(ctx, in, port) })
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if pause == 0 {
			p.engine.log.Warn("a published port takes no connections for now", "err", err)
		}
		pause = min(max(2*pause, 5*time.Millisecond), 500*time.Millisecond)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// carry joins one connection with the command's server. While that does not
// take it, the client's is reset, as if the port were closed.
func (p *published) carry(ctx context.Context, in net.Conn, port uint16) {
	m := flow.Meta{Inbound: flow.Published, Network: "tcp", Dest: netip.AddrPortFrom(p.inside[0], port)}
	if a, ok := in.RemoteAddr().(*net.TCPAddr); ok {
		m.Source = a.AddrPort()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var f *flow.Flow
	err := p.engine.routes.Permit(&m)
	if err == nil {
		f, err = p.engine.flows.Open(m, cancel)
	}
	if err == nil {
		for _, addr := range p.inside {
			var out net.Conn
			if out, err = p.sb.Dial(ctx, "tcp", net.JoinHostPort(addr.String(), strconv.Itoa(int(port)))); err == nil {
				p.engine.relay.Join(f, in, out)
				return
			}
		}
		f.Close()
	}
	p.engine.log.Debug("publish", "dst", m.Dest, "err", err)
	if in, ok := in.(*net.TCPConn); ok {
		_ = in.SetLinger(0)
	}
	in.Close()
}

func (p *published) close() {
	p.cancel()
	for _, ln := range p.listeners {
		ln.Close()
	}
	p.serving.Wait()
}
