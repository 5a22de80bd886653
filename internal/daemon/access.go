package daemon

import (
	"context"
	"net"
	"net/netip"
	"time"

	"netstackd/internal/config"
	"netstackd/internal/netcfg"
	"netstackd/internal/route"
	"netstackd/internal/sandbox"
)

// hostRoutes returns the rules of run.
func hostRoutes(cfg config.Config, host *netcfg.Host) *route.Table {
	rc := destinations(cfg)
	rc.Local, rc.Open = host.IsLocal, cfg.Gateway
	for _, p := range stackAddresses(cfg) {
		rc.Stack = append(rc.Stack, p.Addr())
	}
	return route.New(rc)
}

// sandboxRoutes returns the rules of exec. Clients of a SOCKS listener on the host
// may be this host's.
func sandboxRoutes(cfg config.Config, sb *sandbox.Sandbox) *route.Table {
	rc := destinations(cfg)
	rc.Local, rc.Sandbox = new(route.Interfaces).Has, cfg.Address
	rc.Probe = sb.Probing
	return route.New(rc)
}

// destinations returns the rules on destinations that the flags ask for.
func destinations(cfg config.Config) route.Config {
	return route.Config{NoIPv6: cfg.NoIPv6, BlockLAN: cfg.Exec.BlockLAN, Allow: cfg.Exec.Allow}
}

// nat64Wait is how long the start waits for the network's first answer about
// NAT64.
const nat64Wait = 500 * time.Millisecond

// learnNAT64 has the rules follow the NAT64 prefixes of the host's network, where
// they depend on them, and waits a moment for the first answer.
func (e *engine) learnNAT64(ctx context.Context, cfg config.Config, c carriage) {
	if c.host == nil || cfg.NoIPv6 || !cfg.Exec.BlockLAN && len(cfg.Exec.Allow) == 0 {
		return
	}
	known := make(chan struct{})
	follow, cancel := context.WithCancel(context.Background())
	e.onClose(cancel)
	e.serve(func() error {
		e.routes.FollowNAT64(follow, c.host.LookupNetIP, known)
		return nil
	})
	select {
	case <-known:
	case <-time.After(nat64Wait):
	case <-ctx.Done():
	}
}

// addrPorts returns where listeners listen.
func addrPorts(list []net.Listener) []netip.AddrPort {
	var out []netip.AddrPort
	for _, ln := range list {
		if a, ok := ln.Addr().(*net.TCPAddr); ok {
			at := a.AddrPort()
			out = append(out, netip.AddrPortFrom(at.Addr().Unmap().WithZone(""), at.Port()))
		}
	}
	return out
}
