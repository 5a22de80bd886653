package sandbox

import (
	"os"

	"golang.org/x/sys/unix"
)

// watch keeps the masks in place while the command runs: it calls apply when
// a mount of this namespace went, and when something comes to be where a target
// is. It runs to the end of the process, and costs nothing until then.
func (m *masks) watch() {
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return
	}
	defer mounts.Close()
	// Without inotify, of which a user has only so many, a file that replaces
	// what was masked is still noticed: it takes the mount away.
	files, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		files = -1 // poll(2) passes over it
	} else {
		defer unix.Close(files)
	}
	for {
		// Again each time: a directory may be a new one, and adding one that is
		// watched already changes nothing.
		for _, dir := range m.parents() {
			_, _ = unix.InotifyAddWatch(files, dir, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ONLYDIR)
		}
		_ = m.apply() // once more at the next change
		// mountinfo reports a change of the mounts as POLLPRI (proc(5)).
		fds := []unix.PollFd{
			{Fd: int32(files), Events: unix.POLLIN},
			{Fd: int32(mounts.Fd()), Events: unix.POLLPRI},
		}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return
		}
		drain(files)
	}
}

// drain discards what a non-blocking fd has.
func drain(fd int) {
	buf := make([]byte, 4096)
	for {
		if n, err := unix.Read(fd, buf); n <= 0 || err != nil {
			return
		}
	}
}
