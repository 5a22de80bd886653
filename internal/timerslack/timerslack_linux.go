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
// monitor is there before main, so Raise starts the program anew.
package timerslack

import (
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	raised = 4_000_000 // ns
	usual  = 50_000    // ns, of Linux
)

// Raise replaces the process by the same program with a greater timer slack, at
// the first call in main, before anything was read or opened. It returns if it
// has that slack already, or can't be started again: then all works, slower.
func Raise() {
	runtime.LockOSThread() // whose slack it is
	defer runtime.UnlockOSThread()
	slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil || slack >= raised {
		return
	}
	// By its name, which is how ps(1) will call it; not /proc/self/exe.
	file, err := os.Executable()
	if err != nil || unix.Prctl(unix.PR_SET_TIMERSLACK, raised, 0, 0, 0) != nil {
		return
	}
	_ = syscall.Exec(file, os.Args, os.Environ())
	_ = Restore()
}

// Restore gives the calling thread, and what it will start, the system's usual
// slack: what Raise did is not for other programs.
func Restore() error { return unix.Prctl(unix.PR_SET_TIMERSLACK, usual, 0, 0, 0) }
