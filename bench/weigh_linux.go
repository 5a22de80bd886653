package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"netstackd/bench/testbed"
)

// weigh finds the memory that an idle flow takes: what a fresh program's grows
// by for each of many. A few flows come first, so that what the program needs
// for any is there.
func (l *lab) weigh(ctx context.Context, r *route, found map[string]float64) error {
	p := r.program
	p.stop()
	if err := l.start(ctx, p); err != nil {
		p.failed = err
		return err
	}
	if _, err := l.holding(ctx, r, 16); err != nil {
		return err
	}
	empty, err := l.settle(ctx, p)
	if err != nil {
		return err
	}
	held, err := l.holding(ctx, r, l.cfg.Flows)
	if err != nil {
		return err
	}
	found["memory"] = float64(held-empty) / 1024 / float64(l.cfg.Flows)
	return l.release(ctx, p, empty, held, found)
}

// holding is the program's memory while so many flows are held.
func (l *lab) holding(ctx context.Context, r *route, flows int) (int64, error) {
	if err := r.client.start(Load{Kind: Hold, Conns: flows, Dest: r.dest, SOCKS: r.socks}); err != nil {
		return 0, fmt.Errorf("hold %d flows: %w", flows, err)
	}
	held, err := l.settle(ctx, r.program)
	_, stopErr := r.client.stop()
	return held, errors.Join(err, stopErr)
}

// release waits until nine tenths of what the flows took is given back.
func (l *lab) release(ctx context.Context, p *runner, empty, held int64, found map[string]float64) error {
	if l.cfg.Release == 0 {
		return wait(ctx, time.Second) // the flows' end is no part of what comes next
	}
	for start := time.Now(); ; {
		now, err := testbed.Memory(p.process.Pids()...)
		if err != nil {
			return err
		}
		took := time.Since(start)
		kept := max(0, float64(now-empty)/float64(max(held-empty, 1)))
		found["memory-kept"], found["memory-wait"] = kept*100, took.Seconds()
		if kept < 0.1 || took > l.cfg.Release {
			return nil
		}
		if err := wait(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
}

// settle returns the memory of a program once it stays the same.
func (l *lab) settle(ctx context.Context, p *runner) (int64, error) {
	last, err := testbed.Memory(p.process.Pids()...)
	for range 10 {
		if err == nil {
			err = wait(ctx, 400*time.Millisecond)
		}
		if err != nil {
			return 0, err
		}
		var now int64
		now, err = testbed.Memory(p.process.Pids()...)
		if diff := now - last; diff < 64<<10 && diff > -64<<10 {
			return now, err
		}
		last = now
	}
	return last, err
}

// spread finds how much more a datagram and a new flow cost the program when
// flows to many destinations are held: TCP and UDP, each to an address of its
// own.
func (l *lab) spread(ctx context.Context, r *route, found map[string]float64) error {
	one, err := l.costs(ctx, r, 1)
	if err != nil {
		return err
	}
	// The second half of the range is held, so that none is met twice.
	many := min(l.cfg.Flows, 30_000)
	var holders []*agent
	defer func() {
		for _, h := range holders {
			h.close()
		}
		_ = wait(ctx, time.Second) // their ends are no part of what comes next
	}()
	for _, kind := range []Kind{Hold, HoldUDP} {
		holder, err := startAgent(ctx, false)
		if err != nil {
			return err
		}
		holders = append(holders, holder)
		first := r.program.dest.Addr().As4()
		first[2] = 128
		load := Load{Kind: kind, Conns: many, Dest: netip.AddrFrom4(first), Dests: many}
		if err := holder.start(load); err != nil {
			return fmt.Errorf("hold %d destinations: %w", many, err)
		}
	}
	all, err := l.costs(ctx, r, many)
	if err != nil {
		return err
	}
	found["destinations-packet"] = all[0] / one[0]
	found["destinations-flow"] = all[1] / one[1]
	return nil
}

// costs are the processor time of one datagram and of one flow, of flows to so
// many destinations.
func (l *lab) costs(ctx context.Context, r *route, dests int) (costs [2]float64, err error) {
	var seen [2][]float64
	for range l.cfg.Runs {
		for i, load := range []Load{{Kind: Echo, Conns: 16}, {Kind: Connect, Conns: 16, Dests: dests}} {
			w, err := l.window(ctx, r, load)
			if err != nil {
				return costs, err
			}
			seen[i] = append(seen[i], w.cpu/float64(w.done))
		}
	}
	return [2]float64{median(seen[0]), median(seen[1])}, nil
}

// rest finds what a program uses while it has nothing to do: a fresh one, that
// has carried a little.
func (l *lab) rest(ctx context.Context, r *route, found map[string]float64) error {
	period := 10 * l.cfg.Duration
	r.program.stop()
	if err := l.start(ctx, r.program); err != nil {
		r.program.failed = err
		return err
	}
	if _, err := l.holding(ctx, r, 16); err != nil {
		return err
	}
	// What follows traffic is over by then: acknowledgements, timers.
	if err := wait(ctx, 3*time.Second); err != nil {
		return err
	}
	pids := r.program.process.Pids()
	before := testbed.CPU(pids)
	if err := wait(ctx, period); err != nil {
		return err
	}
	found["idle"] = (testbed.CPU(pids) - before).Seconds() * 60 / period.Seconds()
	return nil
}
