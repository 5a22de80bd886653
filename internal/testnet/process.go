//go:build linux

package testnet

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// KillTree kills a process and all its descendants. The command of `netstackd exec`
// outlives a killed netstackd: left alone, it would hold the pipes that a test, or
// `go test`, reads to their end.
func KillTree(pid int) {
	tree := []int{pid}
	for i := 0; i < len(tree); i++ {
		lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", tree[i]))
		for _, list := range lists {
			b, _ := os.ReadFile(list) // an error: it has ended meanwhile
			for _, child := range strings.Fields(string(b)) {
				if pid, err := strconv.Atoi(child); err == nil {
					tree = append(tree, pid)
				}
			}
		}
	}
	for _, pid := range tree {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}

// signalsEnv marks a process that DefaultSignals has executed.
const signalsEnv = "NETSTACKD_TEST_SIGNALS"

// DefaultSignals gives the test binary, and so the programs that it starts, default
// signal dispositions and an empty signal mask. A parent may leave others to it, as
// nohup(1), a shell's `&` and some CI runners do. It executes the binary again if it
// must: call it first in TestMain.
func DefaultSignals() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ignored, blocked := signalState()
	again := os.Getenv(signalsEnv) != ""
	os.Unsetenv(signalsEnv)
	if ignored|blocked == 0 {
		return
	}
	if again {
		fmt.Fprintf(os.Stderr, "testnet: signals stay ignored (%x) or blocked (%x)\n", ignored, blocked)
		os.Exit(1)
	}
	for s := syscall.Signal(1); s < 32; s++ {
		if ignored&(1<<(s-1)) != 0 {
			signal.Notify(make(chan os.Signal, 1), s) // execve(2) sets caught signals to the default
		}
	}
	err := unix.PthreadSigmask(unix.SIG_SETMASK, &unix.Sigset_t{}, nil)
	if err == nil {
		err = syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), signalsEnv+"=1"))
	}
	fmt.Fprintln(os.Stderr, "testnet: run the tests with default signals:", err)
	os.Exit(1)
}

// signalState returns this thread's ignored and blocked signals (proc(5)), without
// those of real time. Signal n is bit n-1.
func signalState() (ignored, blocked uint64) {
	b, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		fmt.Fprintln(os.Stderr, "testnet:", err)
		os.Exit(1)
	}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		set, _ := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		switch set &= 1<<31 - 1; name {
		case "SigIgn":
			ignored = set
		case "SigBlk":
			blocked = set
		}
	}
	return ignored, blocked
}
