package daemon

import (
	"context"
	"net"
	"net/netip"

	"netstackd/internal/config"
	"netstackd/internal/dns"
	"netstackd/internal/netcfg"
	"netstackd/internal/resolvconf"
)

// serveDNS answers captured queries to port 53, queries to the stack's addresses if
// everything is captured, and queries on the given sockets, until the engine is
// closed. It owns the sockets.
func (e *engine) serveDNS(cfg config.Config, s *dns.Server, packets []net.PacketConn, streams []net.Listener) error {
	ctx, cancel := context.WithCancel(context.Background())
	e.onClose(cancel)
	packets, streams = append(packets, e.dns.Packets()), append(streams, e.dns.Streams())
	var err error
	for _, p := range stackAddresses(cfg) {
		if !cfg.RouteDefault {
			break
		}
		at := netip.AddrPortFrom(p.Addr(), 53)
		var pc net.PacketConn
		var ln net.Listener
		if pc, err = e.stack.ListenUDP(at); err != nil {
			break
		}
		packets = append(packets, pc)
		if ln, err = e.stack.ListenTCP(at); err != nil {
			break
		}
		streams = append(streams, ln)
	}
	if err != nil {
		cancel() // Serve closes them all
	}
	e.serve(func() error { return s.Serve(ctx, packets, streams) })
	return err
}

// dnsConfig returns how names are resolved. host has the nameservers of the host's
// links; they are used where resolv.conf leads back to the stack. It may be nil. An
// upstream cannot reach nameservers on the host's loopback, and may not reach the one
// that an application asks.
func (e *engine) dnsConfig(cfg config.Config, c carriage, host *netcfg.Host) dns.Config {
	file := dns.NewNameservers(resolvconf.Path)
	servers, captured := file.Servers, dns.AskedOnly
	if c.host == nil {
		servers, captured = file.Remote, dns.AskedFirst
	}
	return dns.Config{
		Servers: func() []netip.AddrPort {
			if host != nil {
				if s := host.Nameservers(); len(s) > 0 {
					return s
				}
			}
			return servers()
		},
		Captured: captured,
		NoIPv6:   cfg.NoIPv6,
		Permit:   e.routes.Permit,
		Logger:   e.log,
	}
}
