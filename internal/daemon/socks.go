package daemon

import (
	"context"
	"net"
	"net/netip"

	"netstackd/internal/flow"
	"netstackd/internal/relay"
	"netstackd/socks"
	"netstackd/socks/wire"
)

// The package socks knows neither flow.Meta nor the registry. What follows is all
// that connects them:
//
//	client ─► socks.Server ─► inbound ─► rules, registry, dialer, relay
//	dialer ─► overUpstream ─► socks.Client ─► ownFlows ─► dialer

// inbound gives the requests of one SOCKS server to the engine.
type inbound struct {
	engine   *engine
	kind     flow.Inbound // of those that do not come by HTTP
	dialer   dialer
	upstream bool // the dialer uses another host's network
}

// server returns the server.
func (in *inbound) server(cfg socks.Config) *socks.Server {
	cfg.Rule, cfg.Open, cfg.Dialer = in.rule, in.open, in.dial
	cfg.Log = in.engine.log.With("inbound", in.kind.String())
	return socks.NewServer(cfg)
}

// meta describes a request.
func (in *inbound) meta(r *socks.Request) flow.Meta {
	m := flow.Meta{Inbound: in.kind, Network: r.Network(), Source: r.Source, Dest: r.Dest.AddrPort(), User: r.User}
	if r.Dest.IsName() {
		m.Name = r.Dest.Name
	}
	if r.Protocol == socks.HTTP {
		m.Inbound = flow.HTTPProxy
	}
	return m
}

// rule is socks.Config.Rule.
func (in *inbound) rule(r *socks.Request) error {
	m := in.meta(r)
	return in.engine.routes.Permit(&m)
}

// open is socks.Config.Open. A connection is pending until it has both its ends;
// an association has none to wait for.
func (in *inbound) open(r *socks.Request, kill func()) (socks.Flow, error) {
	open := in.engine.flows.OpenPending
	if r.Command == wire.Associate {
		open = in.engine.flows.Open
	}
	f, err := open(in.meta(r), kill)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// dial is socks.Config.Dialer.
func (in *inbound) dial(r *socks.Request) socks.Dialer {
	d := &requestDialer{in.dialer, in.meta(r)}
	if in.upstream {
		return requestUpstream{d}
	}
	return d
}

// requestDialer is a dialer for one request of a SOCKS client.
type requestDialer struct {
	dialer dialer
	meta   flow.Meta
}

// DialContext implements socks.Dialer.
func (d *requestDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return d.dialer.DialContext(ctx, &d.meta, network, address)
}

// ListenPacket implements socks.Dialer.
func (d *requestDialer) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	return d.dialer.ListenPacket(ctx, &d.meta, network, address)
}

// Listen implements socks.Dialer.
func (d *requestDialer) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	return d.dialer.Listen(ctx, &d.meta, network, address)
}

// requestUpstream is the same by an upstream.
type requestUpstream struct{ *requestDialer }

// Bind implements socks.Upstream. The expected peer is the request's destination.
func (d requestUpstream) Bind(ctx context.Context, _ wire.Addr) (net.Listener, error) {
	return d.Listen(ctx, "tcp", "")
}

// relayFlows is a relay that gets its flows from inbound.open.
type relayFlows struct{ relay *relay.Relay }

// Join implements socks.Relay.
func (r relayFlows) Join(f socks.Flow, inbound, outbound net.Conn) {
	r.relay.Join(f.(*flow.Flow), inbound, outbound)
}

// overUpstream is a dialer by a client of an upstream.
type overUpstream struct{ upstream socks.Upstream }

// DialContext implements dialer.
func (d overUpstream) DialContext(ctx context.Context, _ *flow.Meta, network, address string) (net.Conn, error) {
	return d.upstream.DialContext(ctx, network, address)
}

// ListenPacket implements dialer.
func (d overUpstream) ListenPacket(ctx context.Context, _ *flow.Meta, network, address string) (net.PacketConn, error) {
	return d.upstream.ListenPacket(ctx, network, address)
}

// Listen implements dialer.
func (d overUpstream) Listen(ctx context.Context, m *flow.Meta, _, _ string) (net.Listener, error) {
	peer := wire.AddrFrom(m.Dest)
	if m.Name != "" {
		peer = wire.Addr{Name: m.Name, Port: m.Dest.Port()}
	}
	return d.upstream.Bind(ctx, peer)
}

// ownFlows dials the first upstream. These are netstackd's own flows: rules on an
// application's destination do not apply to them.
type ownFlows struct{ dialer dialer }

// DialContext implements socks.ContextDialer.
func (d ownFlows) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	m := &flow.Meta{Inbound: flow.Internal, Network: network}
	if a, err := wire.ParseHostPort(address); err == nil {
		m.Dest, m.Name = netip.AddrPortFrom(a.IP, a.Port), a.Name
	}
	return d.dialer.DialContext(ctx, m, network, address)
}
