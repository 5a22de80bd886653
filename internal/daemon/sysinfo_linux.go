package daemon

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"netstackd/internal/sysctl"
)

// totalMemory returns the machine's RAM in bytes.
func totalMemory() (int64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, err
	}
	return int64(info.Totalram) * int64(info.Unit), nil
}

// tcpMemory returns how many bytes the kernel gives all TCP sockets before it
// saves memory (tcp_mem in tcp(7)). It shows that in the first network namespace
// only; by default it is this part of the machine's memory.
func tcpMemory() int64 {
	var pages int64
	text, err := sysctl.Read("net/ipv4/tcp_mem")
	if err == nil {
		_, err = fmt.Sscan(text, &pages)
	}
	if err == nil {
		return pages * int64(os.Getpagesize())
	}
	total, _ := totalMemory() // 0 if that is not known either
	return total / 64 * 3
}
