package daemon

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"netstackd/internal/flow"
)

// policy is a dialer that goes to allowed destinations only. Others fail with
// EACCES, which the application sees as administratively prohibited.
//
// A name is looked up here when there is a resolver, so that it is its
// addresses that are judged; behind an upstream, names are the upstream's.
type policy struct {
	dialer
	refuse   func(netip.Addr) bool
	resolver interface {
		LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	}
}

// DialContext implements dialer.
func (p *policy) DialContext(ctx context.Context, m *flow.Meta, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if p.refuse(ip.Unmap()) {
			return nil, refused(address)
		}
		return p.dialer.DialContext(ctx, m, network, address)
	}
	if p.resolver == nil {
		return p.dialer.DialContext(ctx, m, network, address)
	}
	ips, err := p.resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	err = refused(address)
	for _, ip := range ips {
		if p.refuse(ip.Unmap()) {
			continue
		}
		var conn net.Conn
		if conn, err = p.dialer.DialContext(ctx, m, network, net.JoinHostPort(ip.String(), port)); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

func refused(address string) error {
	return fmt.Errorf("%s: not allowed: %w", address, syscall.EACCES)
}

// lan reports whether an address is of a network that is somebody's own
// (RFC 6890): what --block-lan keeps from a command.
func lan(a netip.Addr) bool {
	return a.IsPrivate() || a.IsLinkLocalUnicast() || a.IsLoopback() || sharedSpace.Contains(a)
}

// sharedSpace is between a provider and its customers (RFC 6598).
var sharedSpace = netip.MustParsePrefix("100.64.0.0/10")

// refusal returns what exec's flags forbid, or nil if that is nothing.
func refusal(cfg Config) func(netip.Addr) bool {
	if !cfg.NoIPv6 && !cfg.Exec.BlockLAN && len(cfg.Exec.Allow) == 0 {
		return nil
	}
	return func(a netip.Addr) bool {
		if cfg.NoIPv6 && a.Is6() || cfg.Exec.BlockLAN && lan(a) {
			return true
		}
		for _, p := range cfg.Exec.Allow {
			if p.Contains(a) {
				return false
			}
		}
		return len(cfg.Exec.Allow) > 0
	}
}
