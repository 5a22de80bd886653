package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"netstackd/internal/timerslack"
)

// start runs the command and returns its pid, or the status to fail with. It
// must run on the thread that Main is locked to.
func (h *helper) start() (pid, status int, err error) {
	path, err := lookPath(h.argv[0], os.Getenv("PATH"))
	if err != nil {
		return 0, runStatus(err), err
	}
	if err := dropCapabilities(); err != nil {
		return 0, StatusFailed, err
	}
	if err := filterSockets(); err != nil {
		return 0, StatusFailed, explainInside(err, os.DirFS("/proc"))
	}
	if err := timerslack.Restore(); err != nil {
		return 0, StatusFailed, os.NewSyscallError("prctl PR_SET_TIMERSLACK", err)
	}
	attr := &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}}
	pid, err = syscall.ForkExec(path, h.argv, attr)
	if errors.Is(err, unix.ENOEXEC) {
		// A script without #!, which execvp(3) gives to the shell.
		pid, err = syscall.ForkExec("/bin/sh", append([]string{"sh", path}, h.argv[1:]...), attr)
	}
	if err != nil {
		return 0, runStatus(err), fmt.Errorf("run %s: %w", h.argv[0], err)
	}
	return pid, 0, nil
}

// runStatus is the status of a command that can't be run for err.
func runStatus(err error) int {
	if errors.Is(err, fs.ErrNotExist) {
		return StatusNotFound
	}
	return StatusCannotRun
}

// lookPath finds the file of a command as execvp(3) does: one that isn't
// executable is passed over, but remembered.
func lookPath(name, path string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil // execve will tell
	}
	err := fmt.Errorf("%q: %w in $PATH", name, unix.ENOENT)
	if name == "" {
		return "", err
	}
	if path == "" {
		path = "/usr/local/bin:/usr/bin:/bin"
	}
	for _, dir := range filepath.SplitList(path) {
		if dir == "" {
			dir = "."
		}
		file := filepath.Join(dir, name)
		if dir == "." {
			file = "./" + name
		}
		info, statErr := os.Stat(file)
		if statErr != nil || info.IsDir() {
			continue
		}
		if unix.Access(file, unix.X_OK) == nil {
			return file, nil
		}
		err = fmt.Errorf("run %s: %w", file, unix.EACCES)
	}
	return "", err
}

// dropCapabilities takes from this thread, and so from what it forks, what
// would survive execve(2). The thread itself keeps its power.
func dropCapabilities() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl PR_CAP_AMBIENT", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData // version 3 has 64 bits in two
	if err := unix.Capget(&header, &data[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	data[0].Inheritable, data[1].Inheritable = 0, 0
	if err := unix.Capset(&header, &data[0]); err != nil {
		return os.NewSyscallError("capset", err)
	}
	return nil
}

// errnoOf is the errno in err, 0 if there is none.
func errnoOf(err error) unix.Errno {
	var errno unix.Errno
	errors.As(err, &errno)
	return errno
}
