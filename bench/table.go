package bench

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// WriteTable writes the report for people: a line for each metric, a column for
// each path, with the ratio to the kernel's path where it means something.
func (r *Report) WriteTable(w io.Writer) error {
	fmt.Fprintf(w, "%s\n", r.Machine)
	fmt.Fprintf(w, "%d runs of %v each, interleaved; medians, and in parentheses ratios to the kernel's routed path; %d idle flows\n\n",
		r.Runs, r.Duration, r.Flows)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\tunit\t%s\n", strings.Join(r.Paths, "\t"))
	for _, row := range r.Rows {
		cells := make([]string, len(r.Paths))
		for i, path := range r.Paths {
			cells[i] = r.Cell(row.Name, path).text(path)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", row.Title, row.Unit, strings.Join(cells, "\t"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, err := range r.Errors() {
		fmt.Fprintf(w, "\n! %v", err)
	}
	_, err := fmt.Fprintf(w, "\nTook %v.\n", r.Took.Round(time.Second))
	return err
}

func (c *Cell) text(path string) string {
	switch {
	case c == nil:
		return "-"
	case len(c.good()) == 0:
		return "!"
	}
	text := Number(c.Median)
	if c.Ratio > 0 && path != KernelPath {
		text += fmt.Sprintf(" (%.2f)", c.Ratio)
	}
	if c.Error != "" {
		text += " !"
	}
	return text
}

// Number writes a measured value with three digits that count.
func Number(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v >= 99.95 || v <= -99.95:
		return fmt.Sprintf("%.0f", v)
	case v >= 9.995 || v <= -9.995:
		return fmt.Sprintf("%.1f", v)
	case v >= 0.995 || v <= -0.995:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}
