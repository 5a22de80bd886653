//go:build linux

package main_test

import (
	"bufio"
	"io"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"netstackd/internal/testnet"
)

// What flows hold that stand still keeps to --max-memory: the process's memory
// and what the kernel queues for its sockets, together.
func TestIntegrationStalledMemory(t *testing.T) {
	if testnet.Race {
		t.Skip("measures memory, of which the race detector takes its own")
	}
	const budget, besides, flows = 64 << 20, 32 << 20, 500
	for _, way := range []string{"down", "up", "socks down"} {
		t.Run(way, func(t *testing.T) {
			n, d := startRouted(t, "--max-memory", "64M")
			handle := flood
			if way == "up" {
				handle = hang
			}
			port := n.B.ServeTCP(t, ":0", handle)
			idle := d.RSS(t)
			for i := range flows {
				var c net.Conn
				if way == "socks down" {
					c = dialSOCKS(t, n.A, "127.0.0.1:1080", dest(testnet.IPv4, i, port))
				} else {
					c = dialTCP(t, n.A, dest(testnet.IPv4, i, port))
				}
				_ = c.SetDeadline(time.Time{})
				if way == "up" {
					go flood(c.(*net.TCPConn)) // ends when the test closes it
				}
			}
			rss, queued := settle(t, n.A, d)
			t.Logf("%d flows that stand still: RSS %d MiB (%d at first), sockets %d MiB", flows, rss>>20, idle>>20, queued>>20)
			if rss+queued > budget+besides {
				t.Errorf("%d MiB in all, want at most %d", (rss+queued)>>20, (budget+besides)>>20)
			}
			if queued == 0 {
				t.Error("nothing is queued: they do not stand still")
			}
		})
	}
}

// Thousands of readers that stand still slow no other flow down.
func TestIntegrationStalledReadersLeaveRate(t *testing.T) {
	if testnet.Race {
		t.Skip("measures, which means nothing under the race detector")
	}
	const readers, runs = 2000, 5
	n, d := startRouted(t)
	port := n.B.ServeTCP(t, ":0", flood)
	rate := func() float64 {
		c := dialTCP(t, n.A, dest(testnet.IPv4, 1, port))
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		buf := make([]byte, 256<<10)
		if _, err := io.ReadFull(c, buf); err != nil {
			t.Fatal(err)
		}
		began, got := time.Now(), 0
		for time.Since(began) < 500*time.Millisecond {
			m, err := c.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			got += m
		}
		return float64(got) * 8 / time.Since(began).Seconds()
	}
	median := func() float64 {
		var all []float64
		for range runs {
			all = append(all, rate())
		}
		slices.Sort(all)
		return all[runs/2]
	}
	alone := median()
	for i := range readers {
		_ = dialTCP(t, n.A, dest(testnet.IPv4, i, port)).SetDeadline(time.Time{})
	}
	rss, queued := settle(t, n.A, d)
	among := median()
	t.Logf("%.1f Gb/s alone, %.1f among %d that stand still (%.2f); RSS %d MiB, sockets %d MiB",
		alone/1e9, among/1e9, readers, among/alone, rss>>20, queued>>20)
	if among < 0.8*alone {
		t.Errorf("%.2f of the rate that it has alone, want 0.8", among/alone)
	}
}

// flood writes for as long as the connection lives. What is queued by then is
// dropped: the kernel would hold it for minutes.
func flood(c *net.TCPConn) {
	_ = c.SetLinger(0)
	b := make([]byte, 64<<10)
	for {
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

// hang reads nothing, and ends with the connection.
func hang(c *net.TCPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	// A read that takes nothing waits for each event, and for the end.
	_ = raw.Read(func(uintptr) bool { return false })
}

// settle waits until the daemon's memory no longer grows, and returns it: the
// process's own, and what is queued in its sockets.
func settle(t *testing.T, h *testnet.Host, d *testnet.Daemon) (rss, queued int64) {
	t.Helper()
	steady := 0
	testnet.Eventually(t, 60*time.Second, "what is queued no longer grows", func() bool {
		q := socketMemory(t, h, d)
		if q <= queued {
			steady++
		} else {
			steady = 0
		}
		queued = max(queued, q)
		return steady > 10
	})
	return d.RSS(t), queued
}

var skmem = regexp.MustCompile(`skmem:\(r(\d+),rb\d+,t(\d+),tb\d+,f\d+,w(\d+),`)

// socketMemory is what the kernel holds in the queues of the daemon's TCP
// sockets (ss(8)).
func socketMemory(t *testing.T, h *testnet.Host, d *testnet.Daemon) (sum int64) {
	t.Helper()
	pid := "pid=" + strconv.Itoa(d.Pid()) + ","
	lines := bufio.NewScanner(strings.NewReader(h.Run(t, "ss", "-Htnmp", "-O")))
	for lines.Scan() {
		if !strings.Contains(lines.Text(), pid) {
			continue
		}
		m := skmem.FindStringSubmatch(lines.Text())
		if m == nil {
			t.Fatalf("ss said %q", lines.Text())
		}
		for _, i := range []int{1, 3} {
			v, err := strconv.ParseInt(m[i], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			sum += v
		}
	}
	return sum
}
