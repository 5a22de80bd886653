// Package timerslack makes the Go runtime's monitor sleep longer.
//
// # Theory of operation
//
// While a Go program does anything, its monitor thread wakes up to see whether
// a system call keeps others waiting. It asks to sleep for 20 µs; the kernel
// adds a thread's timer slack, 50 µs unless told otherwise (prctl(2),
// PR_SET_TIMERSLACK), and wakes it. For a relay, whose work comes in many
// short pieces, that is a timer to be programmed, an interrupt and two context
// switches for nearly every packet: a fifth of the processor's time where the
// timer is a hypervisor's. And to write 64 KB takes long enough for the monitor
// to hand the core to another thread, which the first then competes with. With
// a slack of some milliseconds both are rare.
//
// What is late by that much is what the monitor does, to take a core from a
// system call that blocks and to preempt, and the program's timers.
//
// The slack is a thread's own, and a new thread's is that of its maker. The
// monitor is there before main, so Raise executes the program again.
package timerslack

import (
	"debug/buildinfo"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	raised = 4_000_000 // ns
	usual  = 50_000    // ns, of Linux

	// former is the environment variable that says what the slack was, in ns,
	// and that the program was executed again: that is not done twice.
	former = "NETSTACKD_TIMERSLACK"
)

// Raise replaces the process by the same program with a greater timer slack, at
// the first call in main, before anything was read or opened. It returns if
// that has been done, or can't be: then all works, slower.
func Raise() {
	runtime.LockOSThread() // whose slack it is
	defer runtime.UnlockOSThread()
	if _, again := os.LookupEnv(former); again {
		return
	}
	slack := get()
	if slack < 0 || slack >= raised {
		return
	}
	file, err := executable()
	if err != nil || set(raised) != nil {
		return
	}
	// A thread with a real-time policy has none and keeps none.
	if get() >= raised {
		_ = syscall.Exec(file, os.Args, append(os.Environ(), former+"="+strconv.Itoa(slack)))
	}
	_ = set(slack)
}

// executable is this program's file. It is called by its name, not
// /proc/self/exe, since ps(1) shows that; and it may be another file
// altogether, if the dynamic loader was called by hand (ld.so(8)).
func executable() (string, error) {
	file, err := os.Executable()
	if err != nil {
		return "", err
	}
	there, err := buildinfo.ReadFile(file)
	if err != nil {
		return "", err
	}
	if here, ok := debug.ReadBuildInfo(); !ok || here.Path != there.Path {
		return "", os.ErrNotExist
	}
	return file, nil
}

// Restore gives the calling thread, and what it will start, the slack that
// there was before Raise, and the environment without a trace of it: what Raise
// did is not for other programs.
func Restore() error {
	slack, err := strconv.Atoi(os.Getenv(former))
	if err != nil || slack <= 0 {
		slack = usual
	}
	if err := os.Unsetenv(former); err != nil {
		return err
	}
	return set(slack)
}

// get returns the calling thread's slack in ns, -1 if the kernel doesn't say.
func get() int {
	slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		return -1
	}
	return slack
}

func set(slack int) error { return unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack), 0, 0, 0) }
