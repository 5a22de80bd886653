package memory

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"netstackd/internal/sysctl"
)

// Total returns the machine's RAM in bytes.
func Total() (int64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, err
	}
	return int64(info.Totalram) * int64(info.Unit), nil
}

// TCP returns how many bytes the kernel gives all TCP sockets before it saves
// memory (tcp_mem in tcp(7)). The kernel shows that in the first network namespace
// only. Elsewhere it is the default, which is a part of the machine's memory.
func TCP() int64 {
	var pages int64
	text, err := sysctl.Read("net/ipv4/tcp_mem")
	if err == nil {
		_, err = fmt.Sscan(text, &pages)
	}
	if err == nil {
		return pages * int64(os.Getpagesize())
	}
	total, _ := Total() // 0 if that is not known either
	return total / 64 * 3
}
