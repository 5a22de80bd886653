package sandbox

import (
	"fmt"
	"os"
	"strings"
)

// readSysctl returns a setting of this network namespace, "" if it isn't there.
func readSysctl(path string) string {
	b, _ := os.ReadFile("/proc/sys/" + path)
	return strings.TrimSpace(string(b))
}

func writeSysctl(path, value string) error {
	f, err := os.OpenFile("/proc/sys/"+path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	if err2 := f.Close(); err == nil {
		err = err2
	}
	return err
}

// allowPing lets the command open ping sockets (icmp(7)), which is the only way
// it has without CAP_NET_RAW. The range may name ids that this user namespace
// maps, and no others.
func allowPing() error {
	err := writeSysctl("net/ipv4/ping_group_range", "0 2147483647")
	if err != nil {
		gid := os.Getegid()
		err = writeSysctl("net/ipv4/ping_group_range", fmt.Sprintf("%d %d", gid, gid))
	}
	return err
}

// allowPorts lets the command serve any port: they are all its own.
func allowPorts() error { return writeSysctl("net/ipv4/ip_unprivileged_port_start", "0") }
