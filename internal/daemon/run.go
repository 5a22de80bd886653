// Package daemon composes netstackd: device, link, stack, transparent inbounds,
// SOCKS servers and the host's routes.
//
// Start-up goes from the inside out: limits, TUN, host addresses, stack,
// listeners, and last the routes that send traffic in. Shutdown goes the other way.
// The flows are drained once no new ones can come.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"netstackd/internal/config"
	"netstackd/internal/dns"
	"netstackd/internal/hostnet"
	"netstackd/internal/logging"
	"netstackd/internal/netcfg"
	"netstackd/socks"
	"netstackd/tun"
)

// Run carries traffic until ctx ends or something fails. What it did to the
// host is undone when it returns.
func Run(ctx context.Context, cfg config.Config) (err error) {
	defer func() { err = withFlag(err) }()
	log, lines := newLogger(os.Stderr, cfg)
	defer lines.Close()
	if err := limits(&cfg, log); err != nil {
		return err
	}
	auth, err := credentials(cfg, log)
	if err != nil {
		return err
	}
	dev, err := openTUN(cfg)
	if err := unoccupied(cfg, dev, err); err != nil {
		return err
	}
	e, err := newEngine(cfg, dev, log)
	if err != nil {
		return err
	}
	defer e.close()
	warnUncaptured(cfg, log)
	host, err := netcfg.Open(ctx, dev.Name(), hostConfig(cfg, log))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.Close()) }()

	e.routes = hostRoutes(cfg, host)
	out := hostnet.New(hostnet.Config{
		Mark:        host.Mark(),
		Interface:   cfg.Interface,
		DialTimeout: cfg.DialTimeout,
		NoIPv6:      cfg.NoIPv6,
		KeepAlive:   cfg.KeepAlive,
		Nameservers: host.Nameservers,
		Permit:      e.routes.PermitAddr,
		Evict:       e.evictDescriptor,
	})
	if err := out.Check(ctx); err != nil {
		return err
	}
	judgeNames(ctx, cfg, e.routes, out)
	loop, err := newLoop(ctx, cfg, host, out, log)
	if err != nil {
		return err
	}
	c, err := e.carry(cfg, out, loop)
	if err != nil {
		return err
	}
	if err := e.start(cfg, c); err != nil {
		return err
	}
	if err := e.serveDNS(cfg, dns.New(c.dialer, e.dnsConfig(cfg, c, host)), nil, nil); err != nil {
		return err
	}
	socksIn := &listeners{engine: e, cfg: cfg, carriage: c, auth: auth, names: out}
	if err := socksIn.listen(); err != nil {
		socksIn.close()
		return err
	}
	socksIn.start()
	e.serve(func() error { return host.Watch(ctx) })
	if cfg.SOCKSEgress == config.EgressStack {
		if lacks := netcfg.Forwarding(ctx, dev.Name(), cfg.Address); lacks != "" {
			log.Warn("--socks-egress stack: " + lacks)
		}
	}
	if err = host.Capture(ctx); err == nil {
		announce(lines, log, socksIn)
		err = e.wait(ctx)
	}
	if errors.Is(err, tun.ErrGone) || errors.Is(err, netcfg.ErrLinkGone) {
		err = fmt.Errorf("the interface %s was deleted while netstackd ran: start netstackd again: %w", dev.Name(), err)
	}
	// No new flow from here on, neither of a client nor captured. Those under way
	// finish, or are reset.
	end := time.Now().Add(cfg.Drain) // for clients and flows together
	socksIn.stop()
	if rerr := host.Release(); err == nil {
		err = rerr
	}
	var clients sync.WaitGroup
	clients.Go(socksIn.close)
	if err == nil {
		e.drain(time.Until(end))
	}
	clients.Wait()
	return err
}

// carry returns how flows are carried on: straight out, or by --via, except
// those that would close the loop.
func (e *engine) carry(cfg config.Config, out *hostnet.Dialer, loop *loop) (carriage, error) {
	urls := make([]string, 0, len(cfg.Via))
	for _, u := range cfg.Via {
		urls = append(urls, u.String())
	}
	via, err := socks.Via(ownFlows{out}, urls...)
	if err != nil {
		return carriage{}, err
	}
	if via == nil {
		return carriage{dialer: out, host: out}, nil
	}
	return carriage{dialer: newUpstreams(overUpstream{via}, loop, e.log), loop: loop}, nil
}

// warnUncaptured says which address family --exclude leaves nothing of.
func warnUncaptured(cfg config.Config, log *slog.Logger) {
	for family, is4 := range map[string]bool{"IPv4": true, "IPv6": false} {
		of := func(p netip.Prefix) bool { return p.Addr().Is4() == is4 }
		if routes := cfg.Routes(); slices.ContainsFunc(routes, of) && !netcfg.LeavesAny(routes, cfg.Exclude, is4) {
			log.Warn("nothing of " + family + " is captured: --exclude covers all that --route names")
		}
	}
}

func hostConfig(cfg config.Config, log *slog.Logger) netcfg.Config {
	var names []netip.Addr
	if cfg.RouteDefault {
		for _, p := range stackAddresses(cfg) {
			names = append(names, p.Addr())
		}
	}
	return netcfg.Config{
		DNS:            names,
		Addresses:      cfg.Address,
		Routes:         cfg.Routes(),
		Excludes:       cfg.Exclude,
		IncludeUIDs:    cfg.IncludeUID,
		ExcludeUIDs:    cfg.ExcludeUID,
		ExcludeCgroups: cfg.ExcludeCgroup,
		Gateway:        cfg.Gateway,
		Strict:         cfg.Strict,
		StackEgress:    cfg.SOCKSEgress == config.EgressStack,
		StackPorts:     stackPorts(cfg),
		Mark:           cfg.FWMark,
		Interface:      cfg.Interface,
		Log:            log,
	}
}

// stackPorts are those that the stack's own services listen on.
func stackPorts(cfg config.Config) []uint16 {
	var ports []uint16
	if cfg.SOCKSStack != 0 {
		ports = append(ports, cfg.SOCKSStack)
	}
	if cfg.RouteDefault {
		ports = append(ports, 53)
	}
	return ports
}

// newLogger returns the logger of cfg, and the queue of lines to w behind it.
func newLogger(w io.Writer, cfg config.Config) (*slog.Logger, *logging.Writer) {
	handler := func(w io.Writer) slog.Handler {
		opts := &slog.HandlerOptions{Level: cfg.LogLevel}
		if cfg.LogFormat == "json" {
			return slog.NewJSONHandler(w, opts)
		}
		return slog.NewTextHandler(w, opts)
	}
	lines := logging.NewWriter(w, handler)
	return slog.New(handler(lines)), lines
}
