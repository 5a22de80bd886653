package timerslack_test

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

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
