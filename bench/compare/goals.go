package main

import (
	"fmt"
	"io"
	"math"
	"path/filepath"
	"text/tabwriter"

	"netstackd/bench"
)

// Goal is one target, and what became of it.
type Goal struct {
	What     string
	Measured *float64 // nil where something was not measured
	Text     string   // Measured, and what it is
	AtMost   bool     // else at least
	Limit    float64
	Met      bool
}

// goals are netstackd's targets, in words and in numbers. A comparison is the
// median of the runs' own ratios; with several programs, or several MTUs of
// one, that with the best other program counts.
func goals(r *bench.Report) []Goal {
	g := &gauge{report: r}
	ofKernel := map[string]float64{"up1": 0.5, "up8": 0.6, "down1": 0.5, "down8": 0.5}
	for _, test := range throughput() {
		what := g.title(test)
		g.atLeast(what+", transparent: of the kernel's", ofKernel[test], g.ratio(test, ours, bench.KernelPath))
		g.atLeast(what+", transparent: to the best of tun2socks and sing-box", 1.25, g.ratio(test, ours, tun2socks, singBox))
		g.atMost(what+", transparent: CPU per gigabit, to the best of them", 0.7, g.ratio(test+"-cpu", ours, tun2socks, singBox))
		g.atLeast(what+", --mtu 1500: to tun2socks at 1500", 5, g.ratio(test, ours1500, "tun2socks 1500"))
		g.atLeast(what+", SOCKS on host: to sing-box's", 1, g.ratio(test, bench.SOCKSHostPath, singBoxSOCKS))
		g.atLeast(what+", SOCKS in stack: to transparent", 0.9, g.ratio(test, bench.SOCKSStackPath, ours))
	}
	g.atLeast("connections per second, transparent: to the best of them", 1.3, g.ratio("connect", ours, tun2socks, singBox))
	g.atLeast("connections per second, SOCKS on host: to microsocks", 1.1, g.ratio("connect", bench.SOCKSHostPath, "microsocks"))
	g.atMost("request/response p50, transparent: to the best of them", 0.75, g.ratio("request", ours, tun2socks, singBox))
	g.atMost("request/response p50, SOCKS on host: to microsocks", 1, g.ratio("request", bench.SOCKSHostPath, "microsocks"))
	g.atLeast("UDP echoes per second: to tun2socks", 2, g.ratio("echo", ours, tun2socks))
	g.atMost("UDP echoes: lost, %", 0, g.value("echo-lost", ours))
	g.atMost("cost of a datagram, many destinations to one", 1.1, g.value("destinations-packet", ours))
	g.atMost("cost of a new flow, many destinations to one", 1.1, g.value("destinations-flow", ours))
	g.atLeast("UDP echoes in trains: to one by one", 4, g.between("train", "single", ours))
	for _, path := range []string{ours, bench.SOCKSHostPath, bench.SOCKSStackPath} {
		g.atMost("memory of an idle TCP flow, "+path+", KB", 16, g.value("memory", path))
		g.atMost("  not given back a minute after their end, "+path+", %", 10, g.value("memory-kept", path))
	}
	g.atMost("CPU when idle, s/min", 0.1, g.value("idle", ours))
	return g.goals
}

// gauge collects goals from a report.
type gauge struct {
	report *bench.Report
	goals  []Goal
}

// measured is a number, and what it came from.
type measured struct {
	value float64
	text  string
}

func nothing() measured { return measured{math.NaN(), "not measured"} }

func (g *gauge) atLeast(what string, limit float64, m measured) {
	g.add(Goal{What: what, Limit: limit, Met: m.value >= limit}, m)
}

func (g *gauge) atMost(what string, limit float64, m measured) {
	g.add(Goal{What: what, AtMost: true, Limit: limit, Met: m.value <= limit}, m)
}

func (g *gauge) add(goal Goal, m measured) {
	goal.Text = m.text
	if !math.IsNaN(m.value) {
		goal.Measured = &m.value
	}
	g.goals = append(g.goals, goal)
}

func (g *gauge) title(metric string) string {
	if row := g.report.Row(metric); row != nil {
		return row.Title
	}
	return metric
}

// ratio compares a path with the worst for it of those that match others.
func (g *gauge) ratio(metric, path string, others ...string) measured {
	row, own := g.report.Row(metric), g.report.Cell(metric, path)
	if row == nil || own == nil {
		return nothing()
	}
	worst := nothing()
	for _, c := range row.Cells {
		if c == own || !one(c.Path, others) {
			continue
		}
		ratio := bench.MedianRatio(own.Values, c.Values)
		less := ratio < worst.value
		if !row.Higher {
			less = ratio > worst.value
		}
		if !math.IsNaN(ratio) && (math.IsNaN(worst.value) || less) {
			worst = measured{ratio, fmt.Sprintf("%.2f (%s ÷ %s %s of %s)",
				ratio, bench.Number(own.Median), bench.Number(c.Median), row.Unit, c.Path)}
		}
	}
	return worst
}

// one reports whether a path is one of others, which are patterns.
func one(path string, others []string) bool {
	for _, pattern := range others {
		if ok, _ := filepath.Match(pattern, path); ok {
			return true
		}
	}
	return false
}

// between compares two metrics of a path.
func (g *gauge) between(metric, other, path string) measured {
	a, b := g.report.Cell(metric, path), g.report.Cell(other, path)
	if a == nil || b == nil {
		return nothing()
	}
	ratio := bench.MedianRatio(a.Values, b.Values)
	return measured{ratio, fmt.Sprintf("%.2f (%s ÷ %s /s)", ratio, bench.Number(a.Median), bench.Number(b.Median))}
}

func (g *gauge) value(metric, path string) measured {
	v := g.report.Median(metric, path)
	if math.IsNaN(v) {
		return nothing()
	}
	return measured{v, bench.Number(v)}
}

// writeGoals writes those that were measured as a table, and how many are met.
func writeGoals(w io.Writer, goals []Goal) error {
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "target\t\tmeasured\t")
	met, measured := 0, 0
	for _, g := range goals {
		if g.Measured == nil {
			continue
		}
		measured++
		sign, verdict := "≥", "NOT MET"
		if g.AtMost {
			sign = "≤"
		}
		if g.Met {
			met++
			verdict = "met"
		}
		fmt.Fprintf(t, "%s\t%s %v\t%s\t%s\n", g.What, sign, g.Limit, g.Text, verdict)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%d of %d met; %d were not measured\n", met, measured, len(goals)-measured)
	return err
}
