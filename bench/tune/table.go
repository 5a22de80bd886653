package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"netstackd/bench"
)

// link is what joins the hosts, and who makes the connection that crosses it.
type link string

const (
	near   link = ""       // a veth, the kernel's connection
	far    link = "-wire"  // the slow one, the kernel's connection
	egress link = "-stack" // the slow one, the stack's: --socks-egress stack
)

// A table is one run: a group's variants over one kind of link.
type table struct {
	name string
	group
	link
}

func tables() (all []table) {
	for _, g := range groups() {
		links := []link{near}
		if g.slow {
			links = append(links, far, egress)
		}
		for _, l := range links {
			all = append(all, table{g.name + string(l), g, l})
		}
	}
	return all
}

func names() string {
	var all []string
	for _, t := range tables() {
		all = append(all, t.name)
	}
	return strings.Join(all, ", ")
}

// choose returns the tables of those names, all if there are none.
func choose(only []string) ([]table, error) {
	all := tables()
	for _, name := range only {
		if !slices.ContainsFunc(all, func(t table) bool { return t.name == name }) {
			return nil, fmt.Errorf("--table: %q is none of %s", name, names())
		}
	}
	return slices.DeleteFunc(all, func(t table) bool { return len(only) > 0 && !slices.Contains(only, t.name) }), nil
}

// tests are what can be told apart on the link. On the slow one eight
// connections show no more than one does.
func (t table) tests() []string {
	if t.link == near {
		return []string{"up1", "up8", "down1", "down8"}
	}
	return []string{"up1", "down1"}
}

func (t table) title() string {
	switch t.link {
	case far:
		return t.group.title + ", slow link, the kernel's connection crosses it"
	case egress:
		return t.group.title + ", slow link, the stack's connection crosses it"
	}
	return t.group.title
}

// programs are the variants, the default first and last.
func (t table) programs(file string) []bench.Program {
	variants := append([]variant{{name: first}}, t.variants...)
	variants = append(variants, variant{name: second})
	var all []bench.Program
	for i, v := range variants {
		all = append(all, v.program(file, i, t.link))
	}
	return all
}

// The default's two names.
const (
	first  = "default"
	second = "default, once more"
)

// write writes the report as Markdown: of the default what was measured, of the
// others ratios to it, of the rate and, in parentheses, the processor time for
// each gigabit.
func (t table) write(w io.Writer, r *bench.Report) error {
	fmt.Fprintf(w, "\n%s (%d runs of %v):\n\n| |", t.title(), r.Runs, r.Duration)
	for _, test := range t.tests() {
		fmt.Fprintf(w, " %s |", test)
	}
	fmt.Fprintf(w, "\n|%s\n", strings.Repeat(" --- |", len(t.tests())+1))
	for _, path := range r.Paths {
		fmt.Fprintf(w, "| %s |", path)
		for _, test := range t.tests() {
			fmt.Fprintf(w, " %s |", cell(r, test, path))
		}
		fmt.Fprintln(w)
	}
	for _, err := range r.Errors() {
		fmt.Fprintf(w, "\n! %v\n", err)
	}
	_, err := fmt.Fprintln(w)
	return err
}

func cell(r *bench.Report, test, path string) string {
	c, base := r.Cell(test, path), r.Cell(test, first)
	if c == nil || base == nil || math.IsNaN(r.Median(test, path)) {
		return "!"
	}
	cpu, cpuBase := r.Cell(test+"-cpu", path), r.Cell(test+"-cpu", first)
	if path == bench.KernelPath {
		return bench.Number(c.Median) + " Gb/s"
	}
	if path == first {
		return fmt.Sprintf("%s Gb/s (%s s/Gb)", bench.Number(c.Median), bench.Number(cpu.Median))
	}
	text := fmt.Sprintf("%.2f (%.2f)", bench.MedianRatio(c.Values, base.Values), bench.MedianRatio(cpu.Values, cpuBase.Values))
	if c.Error != "" || base.Error != "" {
		text += " !"
	}
	return text
}
