package bench_test

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"netstackd/bench"
)

// example is a small report.
func example() *bench.Report {
	return &bench.Report{
		Machine:  bench.Machine{Name: "host", CPU: "some", Cores: 2, Kernel: "6.1", Go: "go1"},
		Duration: time.Second, Runs: 3,
		Paths: []string{bench.KernelPath, bench.TransparentPath},
		Rows: []*bench.Row{{
			Metric: bench.Tests()[0].Metrics[0],
			Cells: []*bench.Cell{
				{Path: bench.KernelPath, Values: []float64{20, 10, 30}, Median: 20, Ratio: 1, TUN: -1},
				{Path: bench.TransparentPath, Values: []float64{10, 6, 12}, Median: 10, Ratio: 0.5, TUN: 1.01, Error: "something"},
			},
		}},
	}
}

func TestTable(t *testing.T) {
	var b bytes.Buffer
	if err := example().WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"host: some, 2 cores", "TCP up, 1 connection", "10.0 (0.50) !", "transparent: something"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestPlot(t *testing.T) {
	file := filepath.Join(t.TempDir(), "report.html")
	r := example()
	r.Rows[0].Cells[1].Error = "<script>" // errors quote what programs said
	r.Paths = append(r.Paths, "tool")
	if err := r.WritePlot(file); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"<h2>TCP up, 1 connection</h2>", "Gb/s, more is better", "host: some, 2 cores",
		// Of 30, the most of any run: 20 by the kernel, and 10 in runs of 6 to 12.
		`class="kernel" style="width:66.66666666666667%"`, `<u style="left:20%;width:20%">`,
		"<small>×0.500</small>", "not measured", "&lt;script&gt;",
	} {
		if !bytes.Contains(page, []byte(want)) {
			t.Errorf("no %q in the page", want)
		}
	}
	for _, foreign := range []string{"<script", "src=", "url(", "@import"} {
		if bytes.Contains(page, []byte(foreign)) {
			t.Errorf("the page has %q: it must be self-contained", foreign)
		}
	}
	if err := (&bench.Report{}).WritePlot(file); err == nil {
		t.Error("an empty report was drawn")
	}
}

func TestMedianRatio(t *testing.T) {
	if got := bench.MedianRatio([]float64{10, 6, 12}, []float64{20, 10, 30}); got != 0.5 {
		t.Errorf("%v, want the median of 0.5, 0.6 and 0.4", got)
	}
	if got := bench.MedianRatio(nil, []float64{1}); !math.IsNaN(got) {
		t.Errorf("%v of nothing", got)
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.0123: "0.012", 1.234: "1.23", 12.34: "12.3", 123.4: "123", 12345: "12345"} {
		if got := bench.Number(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
}
