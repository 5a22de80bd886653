//go:build linux

package bench_test

import (
	"testing"
	"time"

	"netstackd/bench"
	"netstackd/internal/testnet"
)

// A wire delays and loses what it was told to, on the kernel's path as on a
// program's.
func TestIntegrationWire(t *testing.T) {
	if testnet.Race {
		t.Skip("measures, which means nothing under the race detector")
	}
	testnet.RequireRoot(t)
	report, err := bench.Run(t.Context(), bench.Config{
		Programs: []bench.Program{bench.Netstackd(program.Path(t))},
		Tests:    []string{"request", "echo"},
		Duration: 500 * time.Millisecond,
		Runs:     1,
		Delay:    20 * time.Millisecond,
		Loss:     0.02,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range report.Errors() {
		t.Error(err)
	}
	for _, path := range report.Paths {
		// A round trip is never faster than it should be, but for the tick that
		// packets are due by, and a busy machine's may be slower.
		if p50 := report.Median("request", path); !(p50 >= 18_000 && p50 < 60_000) {
			t.Errorf("%s: a request takes %v µs, want 20 ms", path, p50)
		}
		// Each way loses 2 of 100, of some two thousand.
		if lost := report.Median("echo-lost", path); !(lost > 2.5 && lost < 5.5) {
			t.Errorf("%s: %v %% of the datagrams were lost, want 4", path, lost)
		}
	}
}
