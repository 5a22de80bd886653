package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"syscall"

	"netstackd/internal/config"
	"netstackd/internal/hostnet"
	"netstackd/internal/memory"
	"netstackd/tun"
)

// defaultMTU is what docs/performance.md found fastest: the kernel builds one
// packet of a whole super-packet's size, and segments nothing on the way in.
const defaultMTU = 65000

func mtu(cfg config.Config) int {
	if cfg.MTU > 0 {
		return cfg.MTU
	}
	return defaultMTU
}

// openTUN opens or adopts the TUN.
func openTUN(cfg config.Config) (*tun.Device, error) {
	tc := tun.Config{Name: cfg.TUN, Queues: cfg.Queues, MTU: mtu(cfg)}
	if cfg.TUNFd < 0 {
		dev, err := tun.Open(tc)
		if errors.Is(err, syscall.EPERM) && cfg.MTU == 0 {
			// The interface was made by root: keep its MTU.
			tc.MTU = 0
			dev, err = tun.Open(tc)
		}
		if err != nil {
			return nil, err
		}
		return dev, nil
	}
	tc.MTU = cfg.MTU
	dev, err := tun.FromFD(tc, cfg.TUNFd)
	if err != nil {
		return nil, fmt.Errorf("--tun-fd %d: %w", cfg.TUNFd, err)
	}
	// Without --mtu the interface keeps its MTU.
	if mtu, err := dev.MTU(); cfg.MTU > 0 && (err != nil || mtu != cfg.MTU) {
		if err := dev.SetMTU(cfg.MTU); err != nil {
			dev.Close()
			return nil, fmt.Errorf("--mtu %d: %w; leave --mtu out to keep what the interface has", cfg.MTU, err)
		}
	}
	return dev, nil
}

// spareFDs is how many descriptors are kept for listeners, queues, pipes and clients
// without a flow, but no more than a quarter of all.
const spareFDs = 256

// maxPerClient is how many flows one SOCKS client address may have open.
const maxPerClient = 16384

// limits raises the soft limit of descriptors to the hard one and derives the
// default of --max-flows from it. The default of --max-memory comes from the
// machine. It warns where descriptors are few.
func limits(cfg *config.Config, log *slog.Logger) error {
	_, n, err := hostnet.RaiseFDLimit()
	if err != nil {
		return err
	}
	if cfg.MaxFlows == 0 {
		// A flow takes one descriptor, or two when it came by SOCKS on the host.
		// When no descriptor is free, an idle datagram session is evicted. If there
		// is none, only the flow that needs the descriptor is refused.
		cfg.MaxFlows = max(16, int(n-min(spareFDs, n/4)))
		if n/4 < spareFDs {
			log.Warn("few file descriptors, and so few flows at once: raise the hard limit (ulimit -Hn, systemd's LimitNOFILE=)",
				"descriptors", n, "flows", cfg.MaxFlows)
		}
	}
	if cfg.MaxMemory == 0 {
		total, err := memory.Total()
		if err != nil {
			return fmt.Errorf("--max-memory: the machine's memory is unknown, give a number: %w", err)
		}
		cfg.MaxMemory = total / 4
	}
	return nil
}
