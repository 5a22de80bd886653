package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"time"

	"netstackd/internal/config"
	"netstackd/internal/dns"
	"netstackd/internal/hostnet"
	"netstackd/internal/netcfg"
	"netstackd/internal/pcap"
	"netstackd/internal/sandbox"
	"netstackd/link"
	"netstackd/tun"
)

// Exec runs a command with all its traffic through a stack of its own, and
// returns the command's exit status. With an error, the status is the one that
// exec ends with for it.
func Exec(ctx context.Context, cfg config.Config, command []string) (status int, err error) {
	defer func() { err = withFlag(err) }()
	log, lines := newLogger(os.Stderr, cfg)
	defer lines.Close()
	if len(cfg.PassedOver) > 0 {
		log.Warn("--config: these keys have no effect in exec, which captures all that its command sends", "keys", strings.Join(cfg.PassedOver, ","))
	}
	if err := limits(&cfg, log); err != nil {
		return sandbox.StatusFailed, err
	}
	path, err := netcfg.OutboundMTU(cfg.Interface, cfg.FWMark)
	if err != nil {
		log.Debug("the outbound path's MTU is unknown", "err", err)
	}
	sb, err := sandbox.Start(ctx, sandbox.Config{
		Command:    command,
		Queues:     cfg.Queues,
		MTU:        mtu(cfg),
		PathMTU:    path,
		Addresses:  cfg.Address,
		NoIPv6:     cfg.NoIPv6,
		Nameserver: nameserver(cfg),
		JobControl: true,
		Logger:     log,
	})
	if err != nil {
		return sandbox.Status(err), err
	}
	defer sb.Close()
	status, err = execIn(ctx, sb, cfg, log)
	if err != nil && status == 0 {
		status = sandbox.Status(err)
	}
	return status, err
}

// nameserver is the stack's address: IPv4's where there is one, which every
// resolver understands.
func nameserver(cfg config.Config) netip.Addr {
	addrs := stackAddresses(cfg)
	for _, p := range addrs {
		if p.Addr().Is4() {
			return p.Addr()
		}
	}
	return addrs[0].Addr()
}

// execIn carries the sandbox's traffic while the command runs.
func execIn(ctx context.Context, sb *sandbox.Sandbox, cfg config.Config, log *slog.Logger) (status int, err error) {
	tunDev, err := tun.FromFD(tun.Config{MTU: mtu(cfg)}, sb.TUN()...)
	if err != nil {
		return 0, err
	}
	var dev link.Device = tunDev
	if cfg.Exec.Pcap != "" {
		record, perr := pcap.Record(dev, cfg.Exec.Pcap, func(err error) {
			log.Warn("--pcap: the capture lacks all packets from here on", "err", err)
		})
		if perr != nil {
			tunDev.Close()
			return 0, fmt.Errorf("--pcap: %w", perr)
		}
		dev = record
		defer func() { // the engine, which owns the device, is closed
			if lost := record.Err(); lost != nil && err == nil {
				status, err = sandbox.StatusFailed, fmt.Errorf("--pcap: the file is not whole: %w", lost)
			}
		}()
	}
	e, err := newEngine(cfg, dev, log)
	if err != nil {
		return 0, err
	}
	defer e.close()

	e.routes = sandboxRoutes(cfg, sb)
	out := hostnet.New(hostnet.Config{
		Mark:        cfg.FWMark,
		Interface:   cfg.Interface,
		DialTimeout: cfg.DialTimeout,
		NoIPv6:      cfg.NoIPv6,
		Permit:      e.routes.PermitAddr,
		KeepAlive:   cfg.KeepAlive,
		Evict:       e.evictDescriptor,
	})
	if err := out.Check(ctx); err != nil {
		return 0, err
	}
	judgeNames(ctx, cfg, e.routes, out)
	c, err := e.carry(cfg, out, nil)
	if err != nil {
		return 0, err
	}
	if e.published, err = listenPublished(ctx, e, sb, cfg); err != nil {
		return 0, err
	}
	defer e.published.Close()
	names := dns.New(c.dialer, e.dnsConfig(cfg, c, nil))
	socksCarriage := c
	c.dialer = sb.Dialer(c.dialer)
	if err := e.start(cfg, c); err != nil {
		return 0, err
	}
	packets, streams := sb.DNS()
	if err := e.serveDNS(cfg, names, packets, streams); err != nil {
		return 0, err
	}
	socksIn := &listeners{engine: e, cfg: cfg, carriage: socksCarriage, names: out}
	if socksIn.auth, err = credentials(cfg, log); err != nil {
		return 0, err
	}
	defer socksIn.close()
	if err := socksIn.listen(); err != nil {
		return 0, err
	}
	socksIn.start()
	e.learnNAT64(ctx, cfg, c)
	if err := sb.Run(ctx); err != nil {
		return sandbox.Status(err), err
	}
	e.published.Start()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { // ends with this function, or with the data path
		if err := e.wait(ctx); err != nil {
			cancel(err)
		}
	}()
	status, err = sb.Wait(ctx)
	if cause := context.Cause(ctx); err == nil && cause != nil && cause != ctx.Err() {
		return sandbox.StatusFailed, cause
	}
	if err == nil {
		end := time.Now().Add(cfg.Drain)
		e.published.Close()
		socksIn.close()
		e.settle(time.Until(end))
	}
	return status, err
}
