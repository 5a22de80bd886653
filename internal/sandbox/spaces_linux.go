package sandbox

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// helperCaps are what a helper that isn't root needs after execve(2): the
// network, mounts, and port 53.
func helperCaps() []uintptr {
	return []uintptr{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN, unix.CAP_NET_BIND_SERVICE}
}

const ownSpaces = unix.CLONE_NEWNET | unix.CLONE_NEWNS

// namespaces returns what to try, in order.
func namespaces(choice UserNamespace) []*syscall.SysProcAttr {
	plain := &syscall.SysProcAttr{Cloneflags: ownSpaces}
	if os.Geteuid() != 0 {
		return []*syscall.SysProcAttr{{
			Cloneflags:  ownSpaces | unix.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}},
			AmbientCaps: helperCaps(),
		}}
	}
	user := &syscall.SysProcAttr{
		Cloneflags:                 ownSpaces | unix.CLONE_NEWUSER,
		UidMappings:                wholeMap("/proc/self/uid_map"),
		GidMappings:                wholeMap("/proc/self/gid_map"),
		GidMappingsEnableSetgroups: true,
	}
	switch choice {
	case Always:
		return []*syscall.SysProcAttr{user}
	case Never:
		return []*syscall.SysProcAttr{plain}
	}
	return []*syscall.SysProcAttr{user, plain}
}

// wholeMap maps every id that this namespace has to itself (user_namespaces(7)).
func wholeMap(path string) (ids []syscall.SysProcIDMap) {
	b, _ := os.ReadFile(path)
	for line := range strings.Lines(string(b)) {
		var inside, outside, size int
		if n, _ := fmt.Sscan(line, &inside, &outside, &size); n == 3 {
			ids = append(ids, syscall.SysProcIDMap{ContainerID: inside, HostID: inside, Size: size})
		}
	}
	if len(ids) == 0 {
		ids = append(ids, syscall.SysProcIDMap{Size: 1})
	}
	return ids
}

// detachMounts keeps what is mounted in this namespace from showing on the host.
// A mount namespace that was made without a user namespace starts as the host's
// peer.
//
// In a chroot, "/" may be a plain directory of a mount that no path names.
func detachMounts() error {
	err := makeSlaves()
	if err == unix.EINVAL {
		return outsideChroot(makeSlaves)
	}
	return os.NewSyscallError("mount", err)
}

func makeSlaves() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "") }

// outsideChroot runs f with the namespace's own root as "/". It changes the root
// and the working directory of this thread alone, which must be locked, and sets
// them back.
func outsideChroot(f func() error) error {
	var dirs [2]int // where to return to: the working directory, the root
	for i, path := range []string{".", "/"} {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: path, Err: err}
		}
		defer unix.Close(fd)
		dirs[i] = fd
	}
	const own = "/proc/self/ns/mnt"
	space, err := unix.Open(own, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: own, Err: err}
	}
	defer unix.Close(space)
	// Go's threads share one struct fs, which setns(2) refuses.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	// Entered again, a mount namespace sets the root to its own.
	if err := unix.Setns(space, unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("setns", err)
	}
	return errors.Join(
		os.NewSyscallError("mount", f()),
		os.NewSyscallError("fchdir", unix.Fchdir(dirs[1])),
		os.NewSyscallError("chroot", unix.Chroot(".")),
		os.NewSyscallError("fchdir", unix.Fchdir(dirs[0])),
	)
}
