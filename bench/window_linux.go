package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"netstackd/bench/testbed"
)

// A window is what was seen between two looks at a load that runs.
type window struct {
	elapsed          float64 // seconds
	bytes, done      int64   // that arrived
	lost             int64
	cpu              float64 // seconds of the program's
	p50, p99         time.Duration
	tun              float64 // bytes that the TUN moved for each that arrived
	errors           int64
	err              string
	totalUp, totalDn int64
}

// look is one look.
type look struct {
	at       time.Time
	cpu      time.Duration
	counts   Counts
	received int64
}

func (l *lab) look(r *route, pids []int) (k look, err error) {
	k.at, k.cpu = time.Now(), testbed.CPU(pids)
	if k.counts, err = r.client.counts(); err != nil {
		return k, err
	}
	k.received, err = l.server.received()
	return k, err
}

// window runs a load over a route, and proves that it took it.
func (l *lab) window(ctx context.Context, r *route, load Load) (w window, err error) {
	var pids []int
	if r.program != nil {
		pids = r.program.process.Pids()
	}
	load.Dest, load.SOCKS = r.dest, r.socks
	before, received, err := l.quiet(ctx)
	if err != nil {
		return w, err
	}
	if l.wire != nil { // what is lost in a run is the same for all paths
		if err := l.wire.call("Seed", uint64(l.round), &Nothing{}); err != nil {
			return w, err
		}
	}
	if err := r.client.start(load); err != nil {
		return w, err
	}
	first, last, err := l.twoLooks(ctx, r, pids)
	end, stopErr := r.client.stop()
	if err = errors.Join(err, stopErr); err != nil {
		return w, err
	}
	total, err := l.server.received()
	if err != nil {
		return w, err
	}
	w = window{
		elapsed: last.at.Sub(first.at).Seconds(),
		bytes:   last.counts.Bytes - first.counts.Bytes,
		done:    last.counts.Done - first.counts.Done,
		lost:    last.counts.Lost - first.counts.Lost,
		cpu:     (last.cpu - first.cpu).Seconds(),
		p50:     end.P50, p99: end.P99,
		errors: end.Errors, err: end.Error,
		totalUp: end.Bytes, totalDn: end.Bytes,
	}
	switch load.Kind {
	case Upload:
		w.bytes, w.totalUp, w.totalDn = last.received-first.received, total-received, 0
	case Download:
		w.totalUp = 0
	}
	if w.tun, err = l.prove(r, before, w.totalUp, w.totalDn); err != nil {
		return w, err
	}
	switch {
	case w.errors > 0:
		return w, fmt.Errorf("%d errors, the first: %s", w.errors, w.err)
	case w.bytes == 0:
		return w, errors.New("nothing arrived")
	}
	return w, nil
}

// startTrips are the round trips that a connection takes to find its rate.
const startTrips = 20

// twoLooks looks once the load has started up, and again a Duration later.
func (l *lab) twoLooks(ctx context.Context, r *route, pids []int) (first, last look, err error) {
	startUp := min(l.cfg.Duration/4, 500*time.Millisecond) + startTrips*l.cfg.Delay
	if err = wait(ctx, startUp); err != nil {
		return first, last, err
	}
	if first, err = l.look(r, pids); err != nil {
		return first, last, err
	}
	if err = wait(ctx, l.cfg.Duration); err != nil {
		return first, last, err
	}
	last, err = l.look(r, pids)
	return first, last, err
}
