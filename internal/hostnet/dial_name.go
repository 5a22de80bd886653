package hostnet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"

	"netstackd/internal/flow"
)

// attemptDelay is how long one attempt to connect may take before the next
// address is tried beside it (RFC 8305 §5).
const attemptDelay = 250 * time.Millisecond

// splitName returns the host and port of an address whose host is a name. For
// anything else, package net has its own meaning or its own error.
func splitName(network, address string) (host, port string, ok bool) {
	switch network {
	case "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6":
	default:
		return "", "", false
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return "", "", false
	}
	_, err = netip.ParseAddr(host)
	return host, port, err != nil
}

// A Dial connects to address, host:port, for a flow.
type Dial func(ctx context.Context, m *flow.Meta, network, address string) (net.Conn, error)

// DialBy is DialContext with connections that dial makes, to literal addresses: names
// are looked up, judged and raced here.
func (d *Dialer) DialBy(ctx context.Context, m *flow.Meta, network, address string, dial Dial) (net.Conn, error) {
	if d.cfg.NoIPv6 {
		var err error
		if network, err = onlyIPv4(network, address); err != nil {
			return nil, err
		}
	}
	if host, port, ok := splitName(network, address); ok {
		c, err := d.dialName(ctx, m, network, host, port, dial)
		return c, controlError(err)
	}
	return dial(ctx, m, network, address)
}

// dialName looks a name up, leaves out the addresses that the flow may not
// reach, and races the others.
func (d *Dialer) dialName(ctx context.Context, m *flow.Meta, network, host, service string, dial Dial) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.DialTimeout)
	defer cancel()
	port, err := d.resolver.LookupPort(ctx, network, service)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	addrs, err := d.LookupNetIP(ctx, "ip"+strings.TrimLeft(network, "tcpud"), host)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	permitted := make([]netip.AddrPort, 0, len(addrs))
	var refused error
	for _, a := range addrs {
		dst := netip.AddrPortFrom(a.Unmap(), uint16(port))
		if d.cfg.Permit != nil {
			if err := d.cfg.Permit(m, dst); err != nil {
				refused = err
				continue
			}
		}
		permitted = append(permitted, dst)
	}
	if len(permitted) == 0 {
		if refused == nil {
			refused = &net.AddrError{Err: "no suitable address", Addr: host}
		}
		return nil, &net.OpError{Op: "dial", Net: network, Err: refused}
	}
	return race(ctx, m, network, alternate(permitted), dial)
}

// alternate orders addresses so that their families take turns, the family of
// the first one first (RFC 8305 §4).
func alternate(list []netip.AddrPort) []netip.AddrPort {
	var first, other []netip.AddrPort
	for _, a := range list {
		if a.Addr().Is4() == list[0].Addr().Is4() {
			first = append(first, a)
		} else {
			other = append(other, a)
		}
	}
	out := make([]netip.AddrPort, 0, len(list))
	for len(first) > 0 || len(other) > 0 {
		if len(first) > 0 {
			out, first = append(out, first[0]), first[1:]
		}
		if len(other) > 0 {
			out, other = append(out, other[0]), other[1:]
		}
	}
	return out
}

// race connects to the first address that answers. The next attempt starts when
// the one before has failed, or has taken attemptDelay. The losers are canceled.
// The error joins those of all attempts.
func race(ctx context.Context, m *flow.Meta, network string, list []netip.AddrPort, dial Dial) (net.Conn, error) {
	if len(list) == 1 {
		return dial(ctx, m, network, list[0].String())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result)
	errs := make([]error, len(list))
	next, running := 0, 0
	start := func() {
		i := next
		next++
		running++
		go func() {
			c, err := dial(ctx, m, network, list[i].String())
			errs[i] = err // read after results has delivered it
			results <- result{c, err}
		}()
	}
	delay := time.NewTimer(attemptDelay)
	defer delay.Stop()
	var won net.Conn
	for start(); running > 0; {
		var expired <-chan time.Time
		if won == nil && next < len(list) && ctx.Err() == nil {
			expired = delay.C
		}
		select {
		case <-expired:
			start()
		case r := <-results:
			running--
			switch {
			case r.err != nil && expired != nil:
				start()
			case r.err != nil:
				continue
			case won != nil:
				r.conn.Close()
				continue
			default:
				won = r.conn
				cancel()
				continue
			}
		}
		delay.Reset(attemptDelay)
	}
	if won != nil {
		return won, nil
	}
	return nil, errors.Join(errs...)
}
