package timerslack_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netstackd/internal/timerslack"
)

const child = "NETSTACKD_TIMERSLACK_CHILD"

// TestMain is the program that the tests start.
func TestMain(m *testing.M) {
	if os.Getenv(child) == "" {
		os.Exit(m.Run())
	}
	timerslack.Raise()
	runtime.LockOSThread()
	fmt.Println(os.Getpid(), os.Args[1:], slack())
	if err := timerslack.Restore(); err != nil {
		fmt.Println(err)
	}
	fmt.Println(slack())
}

func slack() int {
	n, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		return -1
	}
	return n
}

// The process stays the same to who started it: its pid, arguments and
// streams; and each of its threads has the slack.
func TestRaise(t *testing.T) {
	cmd := exec.Command(os.Args[0], "a", "b c")
	cmd.Env = append(os.Environ(), child+"=1")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	want := []string{fmt.Sprintf("%d [a b c] 4000000", cmd.Process.Pid), "50000"}
	if !slices.Equal(lines, want) {
		t.Errorf("the program said %q, want %q", lines, want)
	}
}

// A real-time policy has no timer slack, whatever is set: the program must not
// start itself for ever.
func TestIntegrationRealTime(t *testing.T) {
	if os.Getuid() != 0 && os.Getenv("NETSTACKD_INTEGRATION") != "1" {
		t.Skip("needs root")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "chrt", "--fifo", "1", os.Args[0])
	cmd.Env = append(os.Environ(), child+"=1")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), strconv.Itoa(cmd.Process.Pid)) {
		t.Errorf("%v: %q", err, out)
	}
}

// What was asked for before is what other programs get.
func TestRestore(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := slack()
	defer unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(before), 0, 0, 0)
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 70_000, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), child+"=1")
	out, err := cmd.Output()
	if lines := strings.Split(strings.TrimSpace(string(out)), "\n"); err != nil || lines[len(lines)-1] != "70000" {
		t.Errorf("%v: the program said %q, want 70000 in the end", err, lines)
	}
}
