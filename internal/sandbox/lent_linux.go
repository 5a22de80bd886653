package sandbox

import (
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// lent returns the fds beyond the standard streams that our caller left open for
// the command, as a shell's <(command) and make's jobserver do. All of our own are
// close-on-exec.
func lent() (fds []int) {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd < 3 {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			fds = append(fds, fd)
		}
	}
	slices.Sort(fds)
	return fds
}

// extraFiles returns the first of fds, for exec.Cmd to put where they are: those
// from 3 up to the first gap. The rest pass through by themselves. They are copies,
// which done closes.
func extraFiles(fds []int) (files []*os.File, done func()) {
	for i, fd := range fds {
		if fd != 3+i {
			break
		}
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			break
		}
		files = append(files, os.NewFile(uintptr(dup), "lent"))
	}
	return files, func() {
		for _, f := range files {
			f.Close()
		}
	}
}

// letGo closes fds, and of the standard streams the first few, once the command
// has its own: the end of a pipe that the command closes must be seen at its other
// end.
func letGo(standard int, fds []int) {
	if null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0); err == nil {
		for fd := range standard {
			_ = unix.Dup3(null, fd, 0)
		}
		unix.Close(null)
	}
	closeAll(fds)
}
