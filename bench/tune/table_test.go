package main

import (
	"slices"
	"strings"
	"testing"

	"netstackd/bench"
)

func TestChoose(t *testing.T) {
	some, err := choose([]string{"mtu", "tcp-stack"})
	if err != nil || len(some) != 2 || some[0].name != "tcp-stack" || some[1].name != "mtu" {
		t.Errorf("got %d tables, %v", len(some), err)
	}
	if all, err := choose(nil); err != nil || len(all) != len(tables()) {
		t.Errorf("got %d tables of %d, %v", len(all), len(tables()), err)
	}
	if _, err := choose([]string{"mtv"}); err == nil || !strings.Contains(err.Error(), "buffers-wire") {
		t.Errorf("a table that there is not: %v", err)
	}
}

// Programs that run beside each other share nothing.
func TestPrograms(t *testing.T) {
	for _, table := range tables() {
		seen := map[string]bool{}
		for _, p := range table.programs("netstackd") {
			for _, flag := range []string{"--tun", "--address", "--socks"} {
				value := p.Command[slices.Index(p.Command, flag)+1]
				if value != "off" && seen[value] {
					t.Errorf("%s: %s %s twice", table.name, flag, value)
				}
				seen[value] = true
			}
		}
	}
}

func TestWrite(t *testing.T) {
	metrics := bench.Tests()[0].Metrics
	one := func(path string, values ...float64) *bench.Cell {
		return &bench.Cell{Path: path, Values: values, Median: values[0]}
	}
	report := &bench.Report{Runs: 2, Paths: []string{bench.KernelPath, first, "Reno", "no SACK"}, Rows: []*bench.Row{
		{Metric: metrics[0], Cells: []*bench.Cell{one(bench.KernelPath, 30, 30), one(first, 10, 20), one("Reno", 5, 10)}},
		{Metric: metrics[1], Cells: []*bench.Cell{one(first, 0.1, 0.1), one("Reno", 0.2, 0.2)}},
	}}
	var b strings.Builder
	table := tables()[slices.IndexFunc(tables(), func(t table) bool { return t.name == "tcp-wire" })]
	if err := table.write(&b, report); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| | up1 | down1 |", "| kernel | 30.0 Gb/s | ! |", "| default | 10.0 Gb/s (0.100 s/Gb) | ! |", "| Reno | 0.50 (2.00) | ! |", "| no SACK | ! | ! |",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in%s", want, b.String())
		}
	}
}
