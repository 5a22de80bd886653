//go:build linux

package main_test

import (
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"netstackd/internal/testnet"
)

// A TCP connection reaches its destination with the application's DSCP, from
// the SYN on.
func TestIntegrationDSCP(t *testing.T) {
	testnet.RequireTool(t, "nft")
	n, _ := startRouted(t)
	n.B.Run(t, "nft", "add table inet seen; add chain inet seen in { type filter hook input priority 0; }; "+
		"add counter inet seen right; add counter inet seen wrong")
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		port := strconv.Itoa(int(n.B.ServeTCP(t, wildcard(f), testnet.Echo)))
		ip := map[testnet.Family]string{testnet.IPv4: "ip", testnet.IPv6: "ip6"}[f]
		n.B.Run(t, "nft", "add rule inet seen in tcp dport "+port+" "+ip+" dscp af21 counter name right; "+
			"add rule inet seen in tcp dport "+port+" "+ip+" dscp != af21 counter name wrong")
		var c net.Conn
		err := n.A.Do(func() (err error) {
			d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
				var serr error
				const af21 = 18 << 2
				err := raw.Control(func(fd uintptr) {
					if f == testnet.IPv4 {
						serr = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TOS, af21)
					} else {
						serr = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_TCLASS, af21)
					}
				})
				if err != nil {
					return err
				}
				return serr
			}}
			c, err = d.Dial("tcp", net.JoinHostPort(testnet.Dest(f, 1).String(), port))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		bound(t, c)
		exchange(t, c, "marked")
		count := func(name string) string { return n.B.Run(t, "nft", "list counter inet seen "+name) }
		if right := count("right"); strings.Contains(right, "packets 0 ") {
			t.Errorf("no packet is marked: %s", right)
		}
		if wrong := count("wrong"); !strings.Contains(wrong, "packets 0 ") {
			t.Errorf("some are not: %s", wrong)
		}
	})
}
