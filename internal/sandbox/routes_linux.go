package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// The TUN takes larger packets than what is beyond it: TCP is fast by them, and
// ends in the stack. A datagram goes on as it is, so its sender has to know the
// path's MTU, to have it fragmented here, or refused, as on the host. So the
// default route says that MTU, and rules give TCP one of its own, that doesn't.
const (
	tcpTable = 198
	ruleMain = 32764 // main, but for its default route
	ruleTCP  = 32765 // just before that of main

	toTable = 1    // FR_ACT_TO_TBL (linux/fib_rules.h)
	minMTU6 = 1280 // RFC 8200 §5
)

// addRoutes sends all of the gateway's family to the TUN.
func (n *netlink) addRoutes(s setup, gateway netip.Addr) error {
	mtu, ipv6 := s.PathMTU, gateway.Is6()
	if ipv6 {
		mtu = max(mtu, minMTU6)
	}
	if mtu >= s.MTU {
		return n.addDefault(s.TUN, gateway, unix.RT_TABLE_MAIN, 0)
	}
	err := errors.Join(
		n.addTCPRule(ipv6, ruleMain, unix.RT_TABLE_MAIN, true),
		n.addTCPRule(ipv6, ruleTCP, tcpTable, false))
	switch {
	case err == nil:
		err = n.addDefault(s.TUN, gateway, tcpTable, 0)
	case errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EOPNOTSUPP):
		err, mtu = nil, 0 // a kernel without rules: a sender learns the MTU when it is too late
	}
	if err != nil {
		return err
	}
	return n.addDefault(s.TUN, gateway, unix.RT_TABLE_MAIN, mtu)
}

// addTCPRule makes TCP look into a table, or only for its specific routes.
func (n *netlink) addTCPRule(ipv6 bool, priority, table uint32, specific bool) error {
	body := []byte{
		family(ipv6), 0, 0, 0, // to and from anywhere, any TOS
		byte(table), 0, 0, toTable,
		0, 0, 0, 0, // flags
	}
	u32 := func(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
	body = attr(body, unix.FRA_PRIORITY, u32(priority))
	body = attr(body, unix.FRA_IP_PROTO, []byte{unix.IPPROTO_TCP})
	if specific {
		body = attr(body, unix.FRA_SUPPRESS_PREFIXLEN, u32(0))
	}
	if err := n.do(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, body); err != nil {
		return fmt.Errorf("add rule %d: %w", priority, err)
	}
	return nil
}

// addDefault adds a default route to an interface, whose MTU counts if mtu is 0.
func (n *netlink) addDefault(name string, gateway netip.Addr, table byte, mtu int) error {
	index, err := indexOf(name)
	if err != nil {
		return err
	}
	body := []byte{
		family(gateway.Is6()), 0, 0, 0, // destination 0/0, from anywhere, any TOS
		table, unix.RTPROT_BOOT, unix.RT_SCOPE_LINK, unix.RTN_UNICAST,
		0, 0, 0, 0, // flags
	}
	if gateway.Is6() { // IPv4's destinations have one neighbor, without a gateway
		body[6] = unix.RT_SCOPE_UNIVERSE
		binary.NativeEndian.PutUint32(body[8:], unix.RTNH_F_ONLINK)
		body = attr(body, unix.RTA_GATEWAY, gateway.AsSlice())
	}
	body = attr(body, unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, index))
	if mtu > 0 {
		metric := attr(nil, unix.RTAX_MTU, binary.NativeEndian.AppendUint32(nil, uint32(mtu)))
		body = attr(body, unix.RTA_METRICS, metric)
	}
	if err := n.do(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, body); err != nil {
		return fmt.Errorf("add default route to %s: %w", name, err)
	}
	return nil
}
