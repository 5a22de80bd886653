package socks

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"netstackd/socks/wire"
)

// Bounds of what one association may have in lookups.
const (
	maxLookups  = 32        // names under way
	maxQueued   = 256 << 10 // bytes of datagrams that wait for them
	maxNames    = 256       // names remembered
	nameTTL     = 30 * time.Second
	nameTTLFail = 2 * time.Second
)

// names looks up the names that one association sends datagrams to. Each lookup has
// a goroutine, so a slow one delays only the datagrams to its name. They keep their
// order.
type names struct {
	a *association

	mu      sync.Mutex
	known   map[string]known
	waiting map[string][]queued
	bytes   int // of all that waits
}

type known struct {
	ips   []netip.Addr // none = the lookup failed
	until time.Time
}

type queued struct {
	port    uint16
	payload []byte
}

func newNames(a *association) *names {
	return &names{a: a, known: make(map[string]known), waiting: make(map[string][]queued)}
}

// send sends payload to dst, or keeps a copy until the lookup has ended. Asked is as
// for allows.
func (n *names) send(asked *Request, dst wire.Addr, payload []byte) {
	n.mu.Lock()
	queue, looking := n.waiting[dst.Name]
	if k, ok := n.known[dst.Name]; ok && !looking && time.Now().Before(k.until) {
		n.mu.Unlock()
		n.deliver(asked, k, dst.Port, payload)
		return
	}
	defer n.mu.Unlock()
	if n.bytes+len(payload) > maxQueued || !looking && len(n.waiting) >= maxLookups {
		n.a.drop()
		return
	}
	n.bytes += len(payload)
	n.waiting[dst.Name] = append(queue, queued{dst.Port, append([]byte(nil), payload...)})
	if !looking {
		n.a.wg.Go(func() { n.lookup(dst.Name) })
	}
}

// deliver sends payload to the first of a name's addresses that the rule allows.
func (n *names) deliver(asked *Request, k known, port uint16, payload []byte) {
	for _, ip := range k.ips {
		if dst := (wire.Addr{IP: ip, Port: port}); n.a.allows(asked, dst) {
			n.a.send(dst, payload)
			return
		}
	}
	n.a.drop()
}

// lookup finds a name's addresses and then sends what has been waiting for it.
func (n *names) lookup(name string) {
	ctx, cancel := context.WithTimeout(n.a.ctx, n.a.cfg.DialTimeout)
	asked := n.a.describe(wire.Associate, wire.Addr{})
	ips, err := n.a.cfg.Resolver.LookupNetIP(ctx, "ip", name)
	cancel()
	k := known{until: time.Now().Add(nameTTLFail)}
	if err == nil && len(ips) > 0 {
		for i := range ips {
			ips[i] = ips[i].Unmap()
		}
		k = known{ips: ips, until: time.Now().Add(nameTTL)}
	} else {
		n.a.log("lookup", name, err)
	}
	for {
		n.mu.Lock()
		queue := n.waiting[name]
		if len(queue) == 0 { // nothing came while the last was sent
			delete(n.waiting, name)
			if len(n.known) >= maxNames {
				clear(n.known)
			}
			n.known[name] = k
			n.mu.Unlock()
			return
		}
		n.waiting[name] = nil
		for _, q := range queue {
			n.bytes -= len(q.payload)
		}
		n.mu.Unlock()
		for _, q := range queue {
			n.deliver(&asked, k, q.port, q.payload)
		}
	}
}
