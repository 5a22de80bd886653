package bench

import (
	"bytes"
	_ "embed"
	"errors"
	"html/template"
	"os"
	"slices"
	"strings"
)

//go:embed plot.html
var plotPage string

// plot is what the page shows: one panel for each metric, one bar for each path.
type plot struct {
	*Report
	Panels []panel
	Errors []error
}

type panel struct {
	Title, Unit string
	Higher      bool // more is better
	Bars        []bar
}

// bar is the result of one path. Lengths are per cent of the panel's width.
type bar struct {
	Path, Kind string
	Number     string
	Ratio      string // to the kernel's path, "" where it means nothing
	Missing    bool   // nothing was measured
	Length     float64
	// Low and Spread place the range from the least to the most of the runs.
	Low, Spread float64
}

// WritePlot draws the report to a file: a self-contained HTML page that needs
// neither network nor script.
func (r *Report) WritePlot(file string) error {
	p := plot{Report: r, Panels: r.panels(), Errors: r.Errors()}
	if len(p.Panels) == 0 {
		return errors.New("bench: no measurement succeeded: there is nothing to draw")
	}
	page, err := template.New("plot").Parse(plotPage)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := page.Execute(&text, p); err != nil {
		return err
	}
	return os.WriteFile(file, text.Bytes(), 0o644)
}

// panels returns a panel for each metric that has at least one result.
func (r *Report) panels() []panel {
	var panels []panel
	var above string
	for _, row := range r.Rows {
		title := row.Title
		if strings.HasPrefix(title, " ") { // it belongs to the one above
			title = above + ": " + strings.TrimSpace(title)
		} else {
			above = title
		}
		if bars := r.bars(row); bars != nil {
			panels = append(panels, panel{Title: title, Unit: row.Unit, Higher: row.Higher, Bars: bars})
		}
	}
	return panels
}

// bars returns one bar for each path, nil if none has a result above 0.
func (r *Report) bars(row *Row) []bar {
	var most float64
	for _, c := range row.Cells {
		if good := c.good(); len(good) > 0 {
			most = max(most, slices.Max(good))
		}
	}
	if most == 0 {
		return nil
	}
	bars := make([]bar, len(r.Paths))
	for i, path := range r.Paths {
		b := bar{Path: path, Kind: kind(path), Missing: true}
		if c := r.Cell(row.Name, path); c != nil && len(c.good()) > 0 {
			low, high := slices.Min(c.good()), slices.Max(c.good())
			b.Missing, b.Number = false, Number(c.Median)
			b.Length, b.Low, b.Spread = 100*c.Median/most, 100*low/most, 100*(high-low)/most
			if c.Ratio > 0 && path != KernelPath {
				b.Ratio = Number(c.Ratio)
			}
		}
		bars[i] = b
	}
	return bars
}

// kind names the bar's color: the kernel's path, ours, or another program's.
func kind(path string) string {
	switch {
	case path == KernelPath:
		return "kernel"
	case strings.HasPrefix(path, TransparentPath), path == SOCKSHostPath, path == SOCKSStackPath:
		return "ours"
	}
	return "other"
}
