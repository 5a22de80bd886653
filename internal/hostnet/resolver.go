package hostnet

import (
	"context"
	"errors"
	"net"
)

// dialNameserver opens the socket of one query. The address is the one that
// package net read from /etc/resolv.conf; Config.Nameservers overrides it.
func (d *Dialer) dialNameserver(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{Control: d.control}
	if d.cfg.Nameservers == nil {
		return dialer.DialContext(ctx, network, address)
	}
	servers := d.cfg.Nameservers()
	if len(servers) == 0 {
		return dialer.DialContext(ctx, network, address)
	}
	// Connecting a UDP socket fails at once where there is no route, so that
	// a server of a family this host can't reach costs nothing.
	var errs []error
	for _, s := range servers {
		c, err := dialer.DialContext(ctx, network, s.String())
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}
