package sandbox

import (
	"bytes"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// waited is one event of a child's.
type waited struct {
	pid    int
	status unix.WaitStatus
}

// wait sends every event of every child: the command's, and those of the
// descendants that became ours when their parents ended. It closes events when
// there is no child left.
func wait(events chan<- waited) {
	defer close(events)
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WUNTRACED|unix.WCONTINUED, nil)
		switch err {
		case nil:
			events <- waited{pid, status}
		case unix.EINTR:
		default: // ECHILD
			return
		}
	}
}

// signalDescendants sends a signal to all that this process and its children
// started. Who changed session or process group is no exception.
func signalDescendants(sig unix.Signal) {
	children := make(map[int][]int)
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if parent, ok := parentOf(pid); ok {
				children[parent] = append(children[parent], pid)
			}
		}
	}
	for next := children[os.Getpid()]; len(next) > 0; {
		pid := next[0]
		next = append(next[1:], children[pid]...)
		_ = unix.Kill(pid, sig)
		if sig == unix.SIGTERM {
			_ = unix.Kill(pid, unix.SIGCONT) // a stopped one would not get to it
		}
	}
}

// parentOf reads a process's parent from /proc/pid/stat (proc(5)): the second
// field after the command's name, which may hold anything but ends with the
// last bracket.
func parentOf(pid int) (int, bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 2 {
		return 0, false
	}
	parent, err := strconv.Atoi(string(fields[1]))
	return parent, err == nil
}

// exitStatus is what a shell's $? says.
func exitStatus(s unix.WaitStatus) int {
	if s.Signaled() {
		return statusSignalBase + int(s.Signal())
	}
	return s.ExitStatus()
}
