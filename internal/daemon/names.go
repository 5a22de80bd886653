package daemon

import (
	"context"
	"net"
	"net/netip"

	"netstackd/internal/dns"
)

// serveDNS answers on the stack's addresses, and on whatever else is given,
// until the engine is closed. It takes over what is given.
func (e *engine) serveDNS(cfg Config, s *dns.Server, packets []net.PacketConn, streams []net.Listener) error {
	ctx, cancel := context.WithCancel(context.Background())
	e.onClose(cancel)
	var err error
	for _, p := range stackAddresses(cfg) {
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
