package daemon

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"netstackd/internal/config"
	"netstackd/internal/hostnet"
	"netstackd/internal/route"
)

// judgeNames has the names of other hosts' clients judged by their addresses,
// where an upstream on this host looks them up. The scheme socks5h says that names
// are to leave this host by the upstream only, as with Tor: these are not looked up.
func judgeNames(ctx context.Context, cfg config.Config, table *route.Table, names *hostnet.Dialer) {
	here := false
	for _, u := range cfg.Via {
		if u.String() == "direct" {
			continue
		}
		// A chain ends on this host if all of it is here.
		if here = len(addressesHere(ctx, u.Hostname(), names.LookupNetIP, table.Local)) > 0; !here {
			return
		}
	}
	if here && cfg.Via[len(cfg.Via)-1].Scheme != "socks5h" {
		table.SetLookup((&knownNames{find: names.LookupNetIP}).lookUp)
	}
}

// addressesHereLimit bounds a lookup at the start.
const addressesHereLimit = 2 * time.Second

// addressesHere are the addresses of a host that are this host's own.
func addressesHere(ctx context.Context, host string, find route.Lookup, local func(netip.Addr) bool) []netip.Addr {
	ctx, cancel := context.WithTimeout(ctx, addressesHereLimit)
	defer cancel()
	var addrs []netip.Addr
	if a, err := netip.ParseAddr(host); err == nil {
		addrs = []netip.Addr{a}
	} else if list, err := find(ctx, "ip", host); err == nil {
		addrs = list
	}
	var here []netip.Addr
	for _, a := range addrs {
		if a = a.Unmap(); local(a) || a.IsUnspecified() {
			here = append(here, a)
		}
	}
	return here
}

// Bounds of knownNames.
const (
	knownNameAge   = 5 * time.Second // so that datagrams to one name need one lookup
	maxKnownNames  = 1024
	knownNameLimit = time.Second // of one lookup: shutdown waits for it
)

// knownNames looks names up and remembers them for a moment.
type knownNames struct {
	find route.Lookup

	mu    sync.Mutex
	names map[string]knownName
}

type knownName struct {
	addrs []netip.Addr
	until time.Time
}

// lookUp returns the addresses of a name, none if it can't be looked up.
func (k *knownNames) lookUp(name string) []netip.Addr {
	k.mu.Lock()
	n, ok := k.names[name]
	k.mu.Unlock()
	if ok && time.Now().Before(n.until) {
		return n.addrs
	}
	ctx, cancel := context.WithTimeout(context.Background(), knownNameLimit)
	defer cancel()
	addrs, _ := k.find(ctx, "ip", name)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.names == nil || len(k.names) >= maxKnownNames {
		k.names = make(map[string]knownName)
	}
	k.names[name] = knownName{addrs, time.Now().Add(knownNameAge)}
	return addrs
}
