package main

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"sync"
	"time"

	"netstackd/bench/testbed"
)

// impairRows put a bad link where the stack's own TCP has to cope with it: on
// the LAN for transparent flows, before the servers for --socks-egress stack.
func impairRows() (rows []row) {
	for _, where := range []struct {
		name  string
		flags []string
		wire  impaired
		paths func(*network) []path
	}{
		{"transparent", []string{"--gateway"}, wireLAN, func(n *network) []path {
			return []path{{name: "LAN client", from: n.c}, {name: "LAN client, IPv6", from: n.c, ipv6: true}}
		}},
		{"--socks-egress stack", []string{"--socks-egress", "stack"}, wireWAN, func(n *network) []path {
			return []path{{name: "SOCKS", from: n.a, socks: netip.MustParseAddrPort("127.0.0.1:1080")}}
		}},
	} {
		for _, loss := range []float64{0, 0.01, 0.05} {
			rows = append(rows, row{
				name:  fmt.Sprintf("impaired/%s, loss %.0f %%", where.name, loss*100),
				about: "delay 0, 10 and 50 ms, without and with reordering of 3 %, both directions; beside the kernel's own flow",
				flags: where.flags, wire: where.wire, paths: where.paths, bulk: true, window: time.Minute,
				load:   impair(loss),
				expect: expect{conns: 0.99, rate: -1, timeout: 20 * time.Second},
			})
		}
	}
	return rows
}

// shapeFor is how long a link has one shape.
const shapeFor = 3 * time.Second

// impair takes the link through its shapes, and compares the flow with one on
// the kernel's path that shares the link.
func impair(loss float64) func(context.Context, *run) error {
	return func(ctx context.Context, r *run) error {
		from := r.usualPaths()[0].from
		kernel := &flow{path: path{from: from, direct: netip.AddrPortFrom(r.net.b.ip4, portEcho)}}
		carrying, stop := context.WithCancel(ctx)
		var task sync.WaitGroup
		task.Go(func() { kernel.run(carrying) })
		pause(ctx, 300*time.Millisecond)
		sum, shapes := 0.0, 0
		var rates []string
		for _, reorder := range []float64{0, 0.03} {
			for _, delay := range []time.Duration{0, 10 * time.Millisecond, 50 * time.Millisecond} {
				r.net.wire.Seed(uint64(shapes))
				r.net.wire.Set(testbed.Shape{Delay: delay, Loss: loss, Reorder: reorder})
				pause(ctx, shapeFor/3) // the congestion window follows
				ours, theirs := r.flows[0].got.Load(), kernel.got.Load()
				pause(ctx, shapeFor)
				ours, theirs = r.flows[0].got.Load()-ours, kernel.got.Load()-theirs
				ratio := float64(max(ours, 1)) / float64(max(theirs, 1))
				sum += math.Log(ratio)
				shapes++
				rates = append(rates, fmt.Sprintf("%.2f", ratio))
				mbits := 8e-6 / shapeFor.Seconds()
				r.note("delay %v, reordered %.0f %%: %.1f Mb/s, the kernel's %.1f", delay, reorder*100, float64(ours)*mbits, float64(theirs)*mbits)
			}
		}
		r.net.wire.Set(testbed.Shape{})
		stop()
		task.Wait()
		if kernel.wrong != nil || kernel.broken != nil {
			r.note("the kernel's own flow: %v %v", kernel.wrong, kernel.broken)
		}
		mean := math.Exp(sum / float64(shapes))
		r.check(mean >= kernelShare, fmt.Sprintf("rate ≥ %.1f of the kernel's", kernelShare), "%.2f (%s)", mean, strings.Join(rates, " "))
		return nil
	}
}

// kernelShare is what a flow should get at least of what the kernel's gets on
// the same link at the same time: an equal share, but for chance.
const kernelShare = 0.5
