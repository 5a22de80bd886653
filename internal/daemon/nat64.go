package daemon

import (
	"context"
	"net/netip"
	"time"

	"netstackd/internal/config"
	"netstackd/internal/route"
)

const (
	// nat64Every is how often a network is asked for its NAT64 prefixes: it may
	// be another one by then.
	nat64Every = 5 * time.Minute
	// nat64Wait is how long the start waits for the first answer.
	nat64Wait = 500 * time.Millisecond
)

// lookup looks up the addresses of a name.
type lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)

// followNAT64 keeps the table's NAT64 prefixes those of the network, until ctx
// ends. Known is closed after the first answer. When the network has no answer,
// the last one holds.
func followNAT64(ctx context.Context, find lookup, table *route.Table, known chan<- struct{}) {
	again := time.NewTicker(nat64Every)
	defer again.Stop()
	for {
		if addrs, err := find(ctx, "ip6", route.NAT64Name); err == nil {
			table.SetNAT64(route.NAT64Prefixes(addrs))
		}
		if known != nil {
			close(known)
			known = nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return
		}
	}
}

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
		followNAT64(follow, c.host.LookupNetIP, e.routes, known)
		return nil
	})
	select {
	case <-known:
	case <-time.After(nat64Wait):
	case <-ctx.Done():
	}
}
