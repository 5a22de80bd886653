package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// marks are the moments of a row, and what the flows had carried by then.
type marks struct {
	began, on, off, end time.Time
	bytes               [3]int64 // at began, on and off
	err                 error    // the load's
}

// noteRates notes what the flows carry in each second until the function that it
// returns is called.
func (r *run) noteRates() (stop func()) {
	var rates []string
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for last := r.carried(); ; {
			select {
			case <-quit:
				return
			case <-tick.C:
			}
			now := r.carried()
			rates = append(rates, fmt.Sprintf("%.0f", float64(now-last)*8/1e6))
			last = now
		}
	}()
	return func() {
		close(quit)
		<-ended
		r.note("the flows in each second of the load: %s Mb/s", strings.Join(rates, " "))
	}
}

// noteStalled looks at flows that have no byte come back within half a second,
// and notes what the kernel knows of their sockets.
func (r *run) noteStalled(ctx context.Context) {
	before := make([]int64, len(r.flows))
	for i, f := range r.flows {
		before[i] = f.got.Load()
	}
	pause(ctx, 500*time.Millisecond)
	for i, f := range r.flows {
		local := f.local.Load()
		if f.got.Load() > before[i] || local == nil {
			continue
		}
		r.note("%s stands still after %d of %d bytes", f.path.name, f.got.Load(), f.sent.Load())
		out, _ := f.path.from.output(ctx, "ss", "-tinmoH", "sport", "=", fmt.Sprint(local.Port), "or", "dport", "=", fmt.Sprint(local.Port))
		r.note("its socket: %s", strings.Join(strings.Fields(out), " "))
		out, _ = r.net.a.output(ctx, "ss", "-tinmoH", "dport", "=", fmt.Sprint(portEcho), "and", "src", "10.77.0.1")
		for entry := range strings.SplitSeq(out, "ESTAB") {
			if fields := strings.Fields(entry); len(fields) > 4 && strings.HasSuffix(fields[3], "10.78.0.1:7000") {
				r.note("netstackd's: %s", strings.Join(fields, " "))
			}
		}
	}
}

// carried is what has come back on the flows.
func (r *run) carried() (sum int64) {
	for _, f := range r.flows {
		sum += f.got.Load()
	}
	return sum
}

// verdict makes the common checks.
func (r *run) verdict(ctx context.Context, m marks) {
	if m.err != nil {
		r.check(false, "", "the load: %v", m.err)
	}
	r.checkConns(m)
	r.checkRate(m)
	r.checkBytes(m)
	back, ok := r.stream.recovered(m.off)
	if !ok {
		t := r.stream.between(m.off, m.end)
		r.check(false, wantWell, "not healthy %.1f s after, %d of %d failed", m.end.Sub(m.off).Seconds(), t.failed, t.tried)
		r.note("after the load: %v", t.first)
	} else {
		r.check(back <= backWithin, wantWell, "well after %.1f s", back.Seconds())
	}
	if !r.expect.own {
		r.checkEnd(ctx)
	}
	if r.after != nil {
		r.after(r, ctx)
	}
}

func (r *run) checkConns(m marks) {
	before := r.stream.between(m.began, m.on)
	if before.failed > 0 {
		r.check(false, "", "%d of %d connections failed before the load", before.failed, before.tried)
		r.note("before the load: %v", before.first)
	}
	want := r.expect.conns
	if want == 0 {
		want = connsDefault
	}
	t := r.stream.between(m.on, m.off)
	if want > 0 {
		r.check(t.share() >= want, wantConns(want),
			"%.1f %% of %d (slowest %.0f ms)", t.share()*100, t.tried, float64(t.worst.Milliseconds()))
	}
	if t.first != nil {
		r.note("under the load %d of %d failed, the first: %v", t.failed, t.tried, t.first)
	}
}

// checkRate compares the flow's rate under the load with what it should be.
func (r *run) checkRate(m marks) {
	want := r.expect.rate
	if want == 0 {
		want = rateDefault
	}
	if want < 0 {
		return
	}
	rate := float64(m.bytes[2]-m.bytes[1]) / m.off.Sub(m.on).Seconds()
	base, what := float64(flowPace)*float64(len(r.flows)), ofItsPace
	if r.bulk {
		base, what = float64(m.bytes[1]-m.bytes[0])/m.on.Sub(m.began).Seconds(), "of before"
	}
	share := rate / max(base, 1)
	r.check(share >= want, wantRate(want, what), "%.0f %% (%.0f Mb/s)", share*100, rate*8/1e6)
}

// checkBytes looks at what every flow and connection carried.
func (r *run) checkBytes(m marks) {
	var wrong, broken []error
	for _, f := range r.flows {
		if f.wrong != nil {
			wrong = append(wrong, f.wrong)
		}
		if f.broken != nil {
			broken = append(broken, f.broken)
		}
	}
	lies := r.stream.between(m.began, m.end).lies
	for _, err := range slices.Concat(wrong, broken) {
		r.note("%v", err)
	}
	switch {
	case len(wrong)+lies > 0:
		r.check(false, wantBytes, "%d flows and %d connections with wrong bytes", len(wrong), lies)
	case len(broken) > 0:
		r.check(r.expect.breaks, wantBytes, "%d of %d flows broken off, said so", len(broken), len(r.flows))
	default:
		r.check(true, wantBytes, "every byte")
	}
}

// checkEnd ends netstackd in order.
func (r *run) checkEnd(ctx context.Context) {
	if !r.daemon.alive() {
		r.check(false, wantEnd, "netstackd had ended, status %d", r.daemon.Status())
		return
	}
	took, err := r.daemon.terminate(endsWithin + 5*time.Second)
	if err != nil {
		r.check(false, wantEnd, "SIGTERM: %v after %.1f s", err, took.Seconds())
		return
	}
	lines := left(ctx, r.net.a)
	for _, line := range lines {
		r.note("left behind: %s", line)
	}
	r.check(took <= endsWithin && len(lines) == 0, wantEnd, "ended after %.1f s, left %d", took.Seconds(), len(lines))
}
