package daemon

import (
	"net"
	"net/netip"

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
