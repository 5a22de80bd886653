package sandbox

import (
	"fmt"
	"os"

	"netstackd/internal/sysctl"
)

// allowPing lets the command open ping sockets (icmp(7)), which is the only way
// it has without CAP_NET_RAW. The range may name ids that this user namespace
// maps, and no others.
func allowPing() error {
	err := sysctl.Write("net/ipv4/ping_group_range", "0 2147483647")
	if err != nil {
		gid := os.Getegid()
		err = sysctl.Write("net/ipv4/ping_group_range", fmt.Sprintf("%d %d", gid, gid))
	}
	return err
}

// allowPorts lets the command serve any port: they are all its own.
func allowPorts() error { return sysctl.Write("net/ipv4/ip_unprivileged_port_start", "0") }
