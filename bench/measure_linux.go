package bench

import (
	"context"
	"errors"
	"slices"
	"time"
)

// measure runs the tests: what needs fresh or quiet programs first, then what
// is compared within each run.
func (l *lab) measure(ctx context.Context) error {
	started := time.Now()
	l.report = &Report{
		Machine: thisMachine(), Started: started,
		Duration: l.cfg.Duration, Runs: l.cfg.Runs, Flows: l.cfg.Flows,
	}
	for _, r := range l.routes {
		l.report.Paths = append(l.report.Paths, r.Name)
	}
	var each, turns []Test
	for _, t := range Tests() {
		switch {
		case len(l.cfg.Tests) > 0 && !slices.Contains(l.cfg.Tests, t.Name):
		case t.Name == "memory" || t.Name == "destinations" || t.Name == "idle":
			each = append(each, t)
		default:
			turns = append(turns, t)
		}
	}
	for _, r := range l.routes {
		for _, t := range turns {
			if r.takes(t) {
				l.total += l.cfg.Runs
			}
		}
		for _, t := range each {
			if r.takes(t) {
				l.total++
			}
		}
	}
	for run := range l.cfg.Runs {
		l.round = run
		for _, t := range turns {
			for i := range l.routes {
				// Who comes first in a run comes last in another.
				if err := l.turn(ctx, t, l.routes[(i+run)%len(l.routes)]); err != nil {
					return err
				}
			}
		}
	}
	for _, t := range each {
		for _, r := range l.routes {
			if err := l.turn(ctx, t, r); err != nil {
				return err
			}
		}
	}
	l.order()
	l.report.finish()
	l.report.Took = time.Since(started)
	return nil
}

// takes says whether a test makes sense for a route.
func (r *route) takes(t Test) bool {
	if len(r.Tests) > 0 && !slices.Contains(r.Tests, t.Name) {
		return false
	}
	switch t.Name {
	case "memory": // the kernel's path has no process to measure
		return r.program != nil
	case "destinations": // a proxy's TUN sees one
		return r.program != nil && r.program.TUN != "" && r.SOCKS == ""
	case "idle": // one answer for each program
		return r.program != nil && r.program.Paths[0].Name == r.Name
	}
	return true
}

// turn is one measurement. Its failure is the cell's; the error is the end of
// the lab.
func (l *lab) turn(ctx context.Context, t Test, r *route) error {
	if !r.takes(t) {
		return nil
	}
	l.progress(t.Metrics[0].Title + ", " + r.Name)
	found, err := l.test(ctx, t.Name, r)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	l.done++
	for _, m := range t.Metrics {
		v, ok := found.values[m.Name]
		if !ok && err == nil {
			continue
		}
		c := l.report.cell(m, r.Name)
		c.TUN = found.tun
		c.Values = append(c.Values, v)
		if err != nil && c.Error == "" {
			c.Error = err.Error()
		}
	}
	text := "failed"
	if v, ok := found.values[t.Metrics[0].Name]; ok {
		text = Number(v) + " " + t.Metrics[0].Unit
	}
	l.progress(t.Metrics[0].Title + ", " + r.Name + ": " + text)
	return nil
}

func (l *lab) progress(text string) {
	_ = l.tell.Encode(message{Progress: &Progress{Done: l.done, Total: l.total, Text: text}})
}

// findings are what one measurement found, by metric.
type findings struct {
	values map[string]float64
	tun    float64
}

func (l *lab) test(ctx context.Context, name string, r *route) (findings, error) {
	f := findings{values: map[string]float64{}, tun: -1}
	if r.program != nil && r.program.process == nil {
		if r.program.failed == nil {
			r.program.failed = errors.New(r.program.Name + " is not running")
		}
		return f, r.program.failed
	}
	switch name {
	case "memory":
		return f, l.weigh(ctx, r, f.values)
	case "destinations":
		return f, l.spread(ctx, r, f.values)
	case "idle":
		return f, l.rest(ctx, r, f.values)
	}
	w, err := l.window(ctx, r, loadOf(name))
	if w.elapsed == 0 {
		return f, err
	}
	f.tun = w.tun
	if name == "up1" || name == "up8" || name == "down1" || name == "down8" {
		gigabits := float64(w.bytes) * 8 / 1e9
		f.values[name] = gigabits / w.elapsed
		if r.program != nil && gigabits > 0 {
			f.values[name+"-cpu"] = w.cpu / gigabits
		}
		return f, err
	}
	f.values[name] = float64(w.done) / w.elapsed
	if name == "request" {
		f.values["request"] = float64(w.p50.Nanoseconds()) / 1e3
		f.values["request-p99"] = float64(w.p99.Nanoseconds()) / 1e3
	}
	if r.program != nil && w.done > 0 {
		f.values[name+"-cpu"] = w.cpu / float64(w.done) * 1e6
	}
	if n := w.done + w.lost; n > 0 {
		f.values[name+"-lost"] = float64(w.lost) / float64(n) * 100
	}
	return f, err
}

// loadOf is what a test of that name runs.
func loadOf(name string) Load {
	switch name {
	case "up1":
		return Load{Kind: Upload, Conns: 1}
	case "up8":
		return Load{Kind: Upload, Conns: 8}
	case "down1":
		return Load{Kind: Download, Conns: 1}
	case "down8":
		return Load{Kind: Download, Conns: 8}
	case "request":
		return Load{Kind: Request, Conns: 1}
	case "connect":
		return Load{Kind: Connect, Conns: 16}
	case "echo":
		return Load{Kind: Echo, Conns: 16}
	case "single":
		return Load{Kind: Single, Conns: 4}
	}
	return Load{Kind: Train, Conns: 4}
}

// order puts the report's cells in the order of its paths, and the rows in
// that of the tests.
func (l *lab) order() {
	var rows []*Row
	for _, t := range Tests() {
		for _, m := range t.Metrics {
			row := l.report.Row(m.Name)
			if row == nil {
				continue
			}
			var cells []*Cell
			for _, path := range l.report.Paths {
				if c := l.report.Cell(m.Name, path); c != nil {
					cells = append(cells, c)
				}
			}
			row.Cells = cells
			rows = append(rows, row)
		}
	}
	l.report.Rows = rows
}
