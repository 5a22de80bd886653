//go:build linux

package testnet

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// CPU is the processor time that the daemon has used, in all its threads.
func (d *Daemon) CPU() time.Duration {
	d.t.Helper()
	// A process's own clock: CPUCLOCK_SCHED for another process, as
	// clock_getcpuclockid(3) makes it.
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^d.Pid())<<3|2, &ts); err != nil {
		d.t.Fatalf("testnet: CPU time of %d: %v", d.Pid(), err)
	}
	return time.Duration(ts.Nano())
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
