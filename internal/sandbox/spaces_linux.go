package sandbox

import (
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
