//go:build linux

package testnet

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// cpuTime reads a process's user and system time from /proc/PID/stat, in ticks
// of 10 ms (proc(5), fields 14 and 15).
func cpuTime(pid int) (user, system time.Duration, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The second field is a name in parentheses that may hold anything.
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, 0, fmt.Errorf("short /proc/%d/stat: %q", pid, text)
	}
	u, err1 := strconv.Atoi(fields[11])
	s, err2 := strconv.Atoi(fields[12])
	if err1 != nil || err2 != nil {
		return 0, 0, fmt.Errorf("odd /proc/%d/stat: %q", pid, text)
	}
	const tick = 10 * time.Millisecond
	return time.Duration(u) * tick, time.Duration(s) * tick, nil
}

// OpenFiles is the number of file descriptors that the daemon has open.
func (d *Daemon) OpenFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// RSS is the daemon's resident memory in bytes (proc(5), VmRSS).
func (d *Daemon) RSS(t testing.TB) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		t.Fatalf("no VmRSS for %d", d.Pid())
	}
	kib, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}
