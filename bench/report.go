package bench

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Report is what a Run found.
type Report struct {
	Machine  Machine
	Started  time.Time
	Took     time.Duration
	Duration time.Duration // of each measurement
	Runs     int
	Flows    int      // that were held, to weigh one
	Paths    []string // in the order in which they took turns
	Rows     []*Row
}

// Machine is where it was found.
type Machine struct {
	Name   string
	CPU    string // its model
	Cores  int
	Memory int64 // bytes
	Kernel string
	Go     string
}

// Row is what was found about one metric.
type Row struct {
	Metric
	Cells []*Cell
}

// Cell is what was found about one path.
type Cell struct {
	Path   string
	Values []float64 // one for each run; 0 where it failed
	Median float64
	// Ratio to the kernel's path: the median of each run's own. 0 is unknown.
	Ratio float64
	// TUN is how many bytes the program's TUN moved for each that arrived; -1
	// where there is none to look at.
	TUN   float64
	Error string // why some failed
}

// Machine returns where this program runs, in one line.
func (m Machine) String() string {
	return fmt.Sprintf("%s: %s, %d cores, %.1f GB, Linux %s, %s", m.Name, m.CPU, m.Cores, float64(m.Memory)/1e9, m.Kernel, m.Go)
}

// Row returns the row of a metric, nil if it was not measured.
func (r *Report) Row(metric string) *Row {
	for _, row := range r.Rows {
		if row.Name == metric {
			return row
		}
	}
	return nil
}

// Cell returns what was found about a metric on a path, nil if nothing was.
func (r *Report) Cell(metric, path string) *Cell {
	if row := r.Row(metric); row != nil {
		for _, c := range row.Cells {
			if c.Path == path {
				return c
			}
		}
	}
	return nil
}

// Median returns a cell's median, NaN where nothing was found.
func (r *Report) Median(metric, path string) float64 {
	if c := r.Cell(metric, path); c != nil && len(c.good()) > 0 {
		return c.Median
	}
	return math.NaN()
}

// Errors lists what could not be measured, or took another path than it should.
func (r *Report) Errors() (errs []error) {
	seen := map[string]bool{}
	for _, row := range r.Rows {
		for _, c := range row.Cells {
			text := c.Path + ": " + c.Error
			if c.Error != "" && !seen[text] {
				seen[text] = true
				errs = append(errs, fmt.Errorf("%s: %s", row.Name, text))
			}
		}
	}
	return errs
}

// cell returns the cell, and makes it if it isn't there.
func (r *Report) cell(m Metric, path string) *Cell {
	row := r.Row(m.Name)
	if row == nil {
		row = &Row{Metric: m}
		r.Rows = append(r.Rows, row)
	}
	if c := r.Cell(m.Name, path); c != nil {
		return c
	}
	c := &Cell{Path: path, TUN: -1}
	row.Cells = append(row.Cells, c)
	return c
}

// finish computes medians and ratios.
func (r *Report) finish() {
	for _, row := range r.Rows {
		kernel := r.Cell(row.Name, KernelPath)
		for _, c := range row.Cells {
			c.Median = median(c.good())
			if kernel == nil || !row.Ratio {
				continue
			}
			if ratio := MedianRatio(c.Values, kernel.Values); !math.IsNaN(ratio) {
				c.Ratio = ratio
			}
		}
	}
}

// good are the values of the runs that did not fail.
func (c *Cell) good() []float64 {
	if c.Error == "" {
		return c.Values
	}
	return slices.DeleteFunc(slices.Clone(c.Values), func(v float64) bool { return v == 0 })
}

// MedianRatio is the median of what each run's value of a is to its value of
// b, NaN where there is none. Runs in which either failed don't count.
func MedianRatio(a, b []float64) float64 {
	var ratios []float64
	for i := range min(len(a), len(b)) {
		if a[i] > 0 && b[i] > 0 {
			ratios = append(ratios, a[i]/b[i])
		}
	}
	if len(ratios) == 0 {
		return math.NaN()
	}
	return median(ratios)
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}
