package sandbox

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// stopSelf stops this process as sig would have stopped it if it were not caught:
// the shell says what stopped a job, and gives it to $?. It returns when
// the process is continued.
func stopSelf(sig unix.Signal) {
	if !stops(sig) {
		_ = unix.Kill(unix.Getpid(), unix.SIGSTOP)
		return
	}
	// Once caught by os/signal, a stop signal never has its default effect
	// again. All zero is the default, in every architecture's struct sigaction.
	var byDefault, before [64]byte
	runtime.LockOSThread() // a signal to this thread acts before the call returns
	defer runtime.UnlockOSThread()
	if !sigaction(sig, &byDefault, &before) {
		_ = unix.Kill(unix.Getpid(), unix.SIGSTOP)
		return
	}
	_ = unix.Tgkill(unix.Getpid(), unix.Gettid(), sig)
	sigaction(sig, &before, nil)
}

// sigaction is rt_sigaction(2), whose set of signals has 8 bytes on all but MIPS,
// where it fails.
func sigaction(sig unix.Signal, act, old *[64]byte) bool {
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig),
		uintptr(unsafe.Pointer(act)), uintptr(unsafe.Pointer(old)), 8, 0, 0)
	return errno == 0
}
