package testbed

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"netstackd/internal/sysctl"
)

// NewNamespace makes a network namespace without a name: the kernel removes it,
// with its interfaces and routes, when the file is closed and the last process
// and socket in it have ended.
func NewNamespace() (ns *os.File, err error) {
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	return ns, err
}

// Enter runs fn on a thread that is in the namespace. What fn opens or starts
// belongs there; goroutines that it starts do not run there. The thread ends
// afterwards, so a process that fn starts must not use Pdeathsig.
func Enter(ns *os.File, fn func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("setns", err)
		}
		return fn()
	})
}

// onThread runs fn on a thread of its own, which ends with it.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- fn()
	}()
	return <-done
}

// IP gives ip(8) commands, one a line, in the calling thread's namespace.
func IP(batch string) error {
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(batch)
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%w: install Debian's iproute2", err)
	}
	if err != nil {
		return fmt.Errorf("ip: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Sysctl sets settings, each name=value, in the calling thread's namespace.
func Sysctl(settings ...string) error {
	for _, line := range settings {
		name, value, _ := strings.Cut(line, "=")
		if err := sysctl.Write(strings.ReplaceAll(name, ".", "/"), value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// RaiseFiles lets this process and those that it starts open as many files as
// may be: for root, more than the limit that it came with.
func RaiseFiles() error {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return fmt.Errorf("limit of open files: %w", err)
	}
	more := unix.Rlimit{Cur: 1 << 20, Max: max(1<<20, lim.Max)}
	if unix.Setrlimit(unix.RLIMIT_NOFILE, &more) == nil {
		return nil
	}
	lim.Cur = lim.Max
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &lim)
}
