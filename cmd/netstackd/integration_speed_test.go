//go:build linux

package main_test

import (
	"context"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"netstackd/internal/testnet"
)

// One connection moves, each way, at least a quarter of what the kernel's own
// routed path moves in the same run.
func TestIntegrationThroughput(t *testing.T) {
	if testnet.Race {
		t.Skip("measures, which means nothing under the race detector")
	}
	testnet.RequireTool(t, "iperf3")
	n, _ := startRouted(t, "--mtu", "1500")
	serveIperf(t, n.B)
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		for _, way := range []struct {
			name string
			args []string
		}{{"up", nil}, {"down", []string{"-R"}}} {
			t.Run(way.name, func(t *testing.T) {
				var kernel, ours []float64
				for range 3 { // interleaved, so that both see the same machine
					kernel = append(kernel, iperf(t, n.A, n.B.Addr(f), way.args...))
					n.A.Through(t, tun, 10_000, 10_000, func() {
						ours = append(ours, iperf(t, n.A, testnet.Dest(f, 1), way.args...))
					})
				}
				slices.Sort(kernel)
				slices.Sort(ours)
				ratio := ours[1] / kernel[1]
				t.Logf("kernel %.1f Gb/s, netstackd %.1f Gb/s, ratio %.2f", kernel[1]/1e9, ours[1]/1e9, ratio)
				if ratio < 0.25 {
					t.Errorf("%.2f of the kernel's routed path, want 0.25 or more", ratio)
				}
			})
		}
	})
}

// serveIperf runs an iperf3 server on the host until the test ends.
func serveIperf(t *testing.T, h *testnet.Host) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := h.Command(ctx, "iperf3", "-s")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
	})
	testnet.Eventually(t, 5*time.Second, "iperf3 listens", func() bool {
		return strings.Contains(h.Run(t, "ss", "-Hltn"), ":5201")
	})
}

// iperf runs for a second and returns the bits a second that were received.
func iperf(t *testing.T, h *testnet.Host, to netip.Addr, args ...string) float64 {
	t.Helper()
	out := h.Run(t, "iperf3", append([]string{"-J", "-t", "1", "-c", to.String()}, args...)...)
	var report struct {
		End struct {
			Received struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || report.End.Received.BitsPerSecond == 0 {
		t.Fatalf("iperf3: %v in %s", err, out)
	}
	return report.End.Received.BitsPerSecond
}

// An idle daemon that has carried traffic uses no processor: under 0.1 s a
// minute, measured over half of one.
func TestIntegrationIdle(t *testing.T) {
	if testnet.Race {
		t.Skip("measures, which means nothing under the race detector")
	}
	t.Parallel()
	n, d := startRouted(t)
	port := n.B.ServeTCP(t, ":0", testnet.Echo)
	idle := dialTCP(t, n.A, dest(testnet.IPv4, 1, port))
	_ = idle.SetDeadline(time.Time{})
	exchange(t, idle, "then quiet")
	const period = 30 * time.Second
	<-time.After(2 * time.Second) // what follows traffic: acknowledgements, the collector
	before := d.CPU()
	<-time.After(period)
	used := d.CPU() - before
	t.Logf("%v of CPU in %v", used, period)
	if limit := period / 600; used > limit {
		t.Errorf("%v of CPU in %v of idleness, want %v or less", used, period, limit)
	}
	exchange(t, idle, "and awake again")
}
