package bench

import (
	"fmt"
	"image/color"
	"os"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

// The drawing: panels beside and below each other, one for each metric, with a
// bar for each path.
const (
	panelColumns           = 3
	panelWidth   vg.Length = 300 * vg.Inch / 72
	barPitch     vg.Length = 16 * vg.Inch / 72
	panelFrame   vg.Length = 70 * vg.Inch / 72 // title and axis
)

// WritePlot draws the report to a PNG file.
func (r *Report) WritePlot(file string) error {
	var panels []*plot.Plot
	var above string
	for _, row := range r.Rows {
		title := row.Title
		if strings.HasPrefix(title, " ") { // it belongs to the one above
			title = above + ": " + strings.TrimSpace(title)
		} else {
			above = title
		}
		if p, err := r.panel(row, title); err != nil {
			return err
		} else if p != nil {
			panels = append(panels, p)
		}
	}
	if len(panels) == 0 {
		return fmt.Errorf("there is nothing to draw")
	}
	for len(panels)%panelColumns != 0 {
		panels = append(panels, nil)
	}
	var grid [][]*plot.Plot
	for ; len(panels) > 0; panels = panels[panelColumns:] {
		grid = append(grid, panels[:panelColumns])
	}
	height := panelFrame + barPitch*vg.Length(len(r.Paths))
	margin := vg.Points(8)
	canvas := vgimg.NewWith(vgimg.UseWH(panelColumns*panelWidth, vg.Length(len(grid))*height+3*margin), vgimg.UseDPI(120))
	dc := draw.New(canvas)
	r.caption(dc)
	tiles := draw.Tiles{Rows: len(grid), Cols: panelColumns, PadX: margin, PadTop: 3 * margin, PadBottom: margin, PadLeft: margin, PadRight: 2 * margin, PadY: margin}
	for i, line := range plot.Align(grid, tiles, dc) {
		for j, c := range line {
			if grid[i][j] != nil {
				grid[i][j].Draw(c)
			}
		}
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if _, err := (vgimg.PngCanvas{Canvas: canvas}).WriteTo(f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// caption writes the machine over the panels.
func (r *Report) caption(dc draw.Canvas) {
	style := plot.New().Title.TextStyle
	style.Font.Size = vg.Points(9)
	style.XAlign, style.YAlign = draw.XCenter, draw.YTop
	text := fmt.Sprintf("%s; %s; medians of %d × %v", r.Machine, r.Started.Format("2006-01-02"), r.Runs, r.Duration)
	dc.FillText(style, vg.Point{X: dc.Center().X, Y: dc.Max.Y - vg.Points(5)}, text)
}

// panel draws one metric, nil if nothing was found about it.
func (r *Report) panel(row *Row, title string) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text, p.Title.TextStyle.Font.Size = title, vg.Points(9)
	better := "less is better"
	if row.Higher {
		better = "more is better"
	}
	p.X.Label.Text = row.Unit + ", " + better
	p.X.Label.TextStyle.Font.Size = vg.Points(8)
	p.X.Tick.Label.Font.Size, p.Y.Tick.Label.Font.Size = vg.Points(8), vg.Points(8)
	names, most := make([]string, len(r.Paths)), 0.0
	for i, path := range r.Paths {
		at := len(r.Paths) - 1 - i // the first on top
		names[at] = path
		c := r.Cell(row.Name, path)
		if c == nil || len(c.good()) == 0 {
			continue
		}
		most = max(most, c.Median)
		if err := addBar(p, float64(at), c.Median, barColor(path)); err != nil {
			return nil, err
		}
	}
	if most == 0 {
		return nil, nil
	}
	p.NominalY(names...)
	p.X.Min, p.X.Max = 0, most*1.2 // room for the longest bar's number
	p.Y.Min, p.Y.Max = -0.6, float64(len(names))-0.4
	return p, nil
}

// addBar adds a bar with its number.
func addBar(p *plot.Plot, at, value float64, c color.Color) error {
	bar, err := plotter.NewBarChart(plotter.Values{value}, barPitch*7/10)
	if err != nil {
		return err
	}
	bar.Horizontal, bar.XMin, bar.Color, bar.LineStyle.Width = true, at, c, 0
	number, err := plotter.NewLabels(plotter.XYLabels{XYs: plotter.XYs{{X: value, Y: at}}, Labels: []string{Number(value)}})
	if err != nil {
		return err
	}
	number.Offset = vg.Point{X: vg.Points(3)}
	for i := range number.TextStyle {
		number.TextStyle[i].Font.Size = vg.Points(8)
		number.TextStyle[i].YAlign = draw.YCenter
	}
	p.Add(bar, number)
	return nil
}

// barColor tells apart the kernel's path, netstackd's, and those of others.
func barColor(path string) color.Color {
	switch {
	case path == KernelPath:
		return color.RGBA{0x9a, 0xa0, 0xa6, 0xff}
	case strings.HasPrefix(path, TransparentPath), path == SOCKSHostPath, path == SOCKSStackPath:
		return color.RGBA{0x1f, 0x77, 0xb4, 0xff}
	}
	return color.RGBA{0xe0, 0x9f, 0x3e, 0xff}
}
