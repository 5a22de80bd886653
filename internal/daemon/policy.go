package daemon

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"netstackd/internal/flow"
)

// A policy says where a flow may not go. It is asked for each packet and takes
// addresses alone, so that asking allocates nothing. Src may be invalid.
type policy func(src, dst netip.Addr) bool

// resolver looks names up.
type resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// restricted is a dialer that goes where its policy lets it. Other flows fail
// with EACCES, which the application sees as administratively prohibited.
//
// A name is looked up here when there is a resolver, so that it is its
// addresses that are judged; behind an upstream, names are the upstream's.
type restricted struct {
	dialer
	refuse   policy
	resolver resolver
}

// DialContext implements dialer.
func (d *restricted) DialContext(ctx context.Context, m *flow.Meta, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if d.refuse(m.Source.Addr(), ip.Unmap()) {
			return nil, refused(address)
		}
		return d.dialer.DialContext(ctx, m, network, address)
	}
	if d.resolver == nil {
		return d.dialer.DialContext(ctx, m, network, address)
	}
	ips, err := d.resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	err = refused(address)
	for _, ip := range ips {
		if d.refuse(m.Source.Addr(), ip.Unmap()) {
			continue
		}
		var conn net.Conn
		if conn, err = d.dialer.DialContext(ctx, m, network, net.JoinHostPort(ip.String(), port)); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// judgedPackets is a restricted dialer whose UDP sockets hold to the policy by
// themselves, for SOCKS. The forwarder's packets are judged before it has them
// (gate), and it wants its sockets bare.
type judgedPackets struct{ *restricted }

// ListenPacket implements dialer.
func (d judgedPackets) ListenPacket(ctx context.Context, m *flow.Meta, network, address string) (net.PacketConn, error) {
	pc, err := d.dialer.ListenPacket(ctx, m, network, address)
	if err != nil {
		return nil, err
	}
	return &judgedConn{pc, m.Source.Addr(), d.refuse}, nil
}

type judgedConn struct {
	net.PacketConn
	src    netip.Addr // whose socket it is
	refuse policy
}

// WriteTo implements net.PacketConn.
func (c *judgedConn) WriteTo(b []byte, to net.Addr) (int, error) {
	if a, ok := to.(*net.UDPAddr); ok && c.refuse(c.src, a.AddrPort().Addr().Unmap()) {
		return 0, refused(to.String())
	}
	return c.PacketConn.WriteTo(b, to)
}

func refused(address string) error {
	return fmt.Errorf("%s: not allowed: %w", address, syscall.EACCES)
}

// policyOf returns what the flags forbid, or nil if that is nothing. Own says
// which addresses are this host's; nil = all are.
func policyOf(cfg Config, own func(netip.Addr) bool) policy {
	x := cfg.Exec
	if !cfg.NoIPv6 && !x.BlockLAN && len(x.Allow) == 0 && !cfg.Gateway {
		return nil
	}
	var private lan
	return func(src, dst netip.Addr) bool {
		if cfg.NoIPv6 && dst.Is6() || x.BlockLAN && private.contains(dst) {
			return true
		}
		// What listens on loopback is for this host alone; a gateway's other
		// users would reach it through us.
		if cfg.Gateway && (dst.IsLoopback() || dst.IsUnspecified()) && own != nil && !own(src.Unmap()) {
			return true
		}
		for _, p := range x.Allow {
			if p.Contains(dst) {
				return false
			}
		}
		return len(x.Allow) > 0
	}
}
