package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"netstackd/internal/sysctl"
)

// configureLinks brings up loopback and the TUN, gives it its addresses, and
// sends everything there. It speaks rtnetlink(7) itself: the helper does this
// once, to two interfaces that it made. Without ipv6 there is neither address nor
// route of that family, and a connection fails at once.
func configureLinks(s setup, ipv6 bool) error {
	n, err := openNetlink(0)
	if err != nil {
		return err
	}
	defer n.close()
	if err := n.linkUp("lo", 0); err != nil {
		return err
	}
	if !ipv6 {
		// Not even a link-local address, which would route ff00::/8.
		_ = sysctl.Write("net/ipv6/conf/"+s.TUN+"/disable_ipv6", "1")
	}
	// The address comes first: on a TUN that is up, the kernel would make a
	// link-local one too, and ask for routers.
	if err := n.noLinkLocal(s.TUN); err != nil && ipv6 {
		return err
	}
	if err := n.linkUp(s.TUN, s.MTU); err != nil {
		return err
	}
	routed := make(map[bool]bool)
	for _, p := range s.Addresses {
		if p.Addr().Is6() && !ipv6 {
			continue
		}
		if err := n.addUsableAddress(s.TUN, p); err != nil {
			return err
		}
		if routed[p.Addr().Is6()] {
			continue
		}
		gateway := netip.IPv4Unspecified()
		if p.Addr().Is6() {
			gateway = p.Addr().Next() // the stack's
		}
		if err := n.addNeighbor(s.TUN, gateway); err != nil {
			return err
		}
		if err := n.addRoutes(s, gateway); err != nil {
			return err
		}
		routed[p.Addr().Is6()] = true
	}
	return nil
}

// haveIPv6 reports whether this kernel has IPv6, and turns it on in this
// namespace if the host's setting was inherited.
func haveIPv6() bool {
	if !sysctl.Exists("net/ipv6") {
		return false
	}
	for _, name := range []string{"net/ipv6/conf/all/disable_ipv6", "net/ipv6/conf/default/disable_ipv6"} {
		off, err := sysctl.Int(name)
		if err == nil && off != 0 {
			err = sysctl.Write(name, "0")
		}
		if err != nil {
			return false
		}
	}
	return true
}

// genModeNone is IN6_ADDR_GEN_MODE_NONE (linux/if_link.h).
const genModeNone = 1

// netlink is a NETLINK_ROUTE socket.
type netlink struct {
	fd  int
	seq uint32
}

// openNetlink opens one that gets the notifications of groups (RTMGRP_…).
func openNetlink(groups uint32) (*netlink, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket AF_NETLINK", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind AF_NETLINK", err)
	}
	return &netlink{fd: fd}, nil
}

func (n *netlink) close() { unix.Close(n.fd) }

// linkUp sets an interface up, and its MTU unless that is 0.
func (n *netlink) linkUp(name string, mtu int) error {
	body, err := ifinfo(name, unix.IFF_UP)
	if err != nil {
		return err
	}
	if mtu > 0 {
		body = attr(body, unix.IFLA_MTU, binary.NativeEndian.AppendUint32(nil, uint32(mtu)))
	}
	if err := n.do(unix.RTM_NEWLINK, 0, body); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// noLinkLocal keeps the kernel from making an IPv6 link-local address.
func (n *netlink) noLinkLocal(name string) error {
	body, err := ifinfo(name, 0)
	if err != nil {
		return err
	}
	mode := attr(nil, unix.IFLA_INET6_ADDR_GEN_MODE, []byte{genModeNone})
	body = attr(body, unix.IFLA_AF_SPEC, attr(nil, unix.AF_INET6, mode))
	if err := n.do(unix.RTM_NEWLINK, 0, body); err != nil {
		return fmt.Errorf("set addrgenmode of %s: %w", name, err)
	}
	return nil
}

// addUsableAddress gives an interface an address and returns when packets to it
// are taken. The kernel adds an IPv6 address in two steps: it is a source address
// at once, but its route in table local comes from a work queue. Before that, the
// answer to a SYN is dropped, and the SYN is sent again a second later.
func (n *netlink) addUsableAddress(name string, p netip.Prefix) error {
	if p.Addr().Is4() {
		return n.addAddress(name, p)
	}
	routes, err := openNetlink(unix.RTMGRP_IPV6_ROUTE)
	if err != nil {
		return err
	}
	defer routes.close()
	if err := n.addAddress(name, p); err != nil {
		return err
	}
	if err := routes.awaitLocal(p.Addr()); err != nil {
		return fmt.Errorf("add address %v to %s: its local route: %w", p, name, err)
	}
	return nil
}

// localTimeout bounds the wait for a work queue of the kernel.
const localTimeout = 5 * time.Second

// awaitLocal returns when a local route to a has been reported.
func (n *netlink) awaitLocal(a netip.Addr) error {
	buf := make([]byte, 8<<10)
	for deadline := time.Now().Add(localTimeout); ; {
		left := unix.NsecToTimeval(max(time.Until(deadline), time.Microsecond).Nanoseconds())
		if err := unix.SetsockoptTimeval(n.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &left); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
		got, _, err := unix.Recvfrom(n.fd, buf, 0)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return unix.ETIMEDOUT
		case err != nil:
			return os.NewSyscallError("recvfrom", err)
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:got])
		if err != nil {
			return err
		}
		for _, m := range messages {
			if isLocalRoute(m, a) {
				return nil
			}
		}
	}
}

// isLocalRoute reports whether a message announces that packets to a are taken.
func isLocalRoute(m syscall.NetlinkMessage, a netip.Addr) bool {
	const typeAt = 7 // in struct rtmsg
	if m.Header.Type != unix.RTM_NEWROUTE || len(m.Data) < unix.SizeofRtMsg || m.Data[typeAt] != unix.RTN_LOCAL {
		return false
	}
	attrs, err := syscall.ParseNetlinkRouteAttr(&m)
	return err == nil && slices.ContainsFunc(attrs, func(r syscall.NetlinkRouteAttr) bool {
		return r.Attr.Type == unix.RTA_DST && slices.Equal(r.Value, a.AsSlice())
	})
}

// addAddress gives an interface an address. IFA_F_NODAD: no other host is on the
// link, so there is no duplicate to look for.
func (n *netlink) addAddress(name string, p netip.Prefix) error {
	index, err := indexOf(name)
	if err != nil {
		return err
	}
	a := p.Addr().AsSlice()
	body := []byte{family(p.Addr().Is6()), byte(p.Bits()), unix.IFA_F_NODAD, unix.RT_SCOPE_UNIVERSE}
	body = binary.NativeEndian.AppendUint32(body, index)
	body = attr(body, unix.IFA_LOCAL, a)
	body = attr(body, unix.IFA_ADDRESS, a)
	if err := n.do(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, body); err != nil {
		return fmt.Errorf("add address %v to %s: %w", p, name, err)
	}
	return nil
}

// addNeighbor gives an interface a permanent neighbor. All namespaces share the
// kernel's neighbor table. When it is full, as in a flood from false addresses on
// the host's LAN, the kernel adds no neighbor, and a packet that has none is lost.
// It does not remove permanent ones. A point-to-point interface has one IPv4
// neighbor, 0.0.0.0, for all destinations; of IPv6 each next hop is one.
func (n *netlink) addNeighbor(name string, a netip.Addr) error {
	index, err := indexOf(name)
	if err != nil {
		return err
	}
	body := binary.NativeEndian.AppendUint32([]byte{family(a.Is6()), 0, 0, 0}, index) // struct ndmsg
	body = binary.NativeEndian.AppendUint16(body, unix.NUD_PERMANENT)
	body = append(body, 0, 0) // flags, type
	body = attr(body, unix.NDA_DST, a.AsSlice())
	if err := n.do(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, body); err != nil {
		return fmt.Errorf("add neighbor %v to %s: %w", a, name, err)
	}
	return nil
}

// do sends one request and waits for its acknowledgement.
func (n *netlink) do(kind, flags int, body []byte) error {
	n.seq++
	msg := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
	msg = binary.NativeEndian.AppendUint16(msg, uint16(kind))
	msg = binary.NativeEndian.AppendUint16(msg, uint16(flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK))
	msg = binary.NativeEndian.AppendUint32(msg, n.seq)
	msg = append(binary.NativeEndian.AppendUint32(msg, 0), body...)
	if err := unix.Sendto(n.fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	buf := make([]byte, 8<<10)
	got, _, err := unix.Recvfrom(n.fd, buf, 0)
	if err != nil {
		return os.NewSyscallError("recvfrom", err)
	}
	// struct nlmsghdr, then of struct nlmsgerr the error.
	if got < unix.NLMSG_HDRLEN+4 || binary.NativeEndian.Uint16(buf[4:]) != unix.NLMSG_ERROR {
		return errors.New("netlink: unexpected answer")
	}
	if code := int32(binary.NativeEndian.Uint32(buf[unix.NLMSG_HDRLEN:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}

// ifinfo is a struct ifinfomsg that sets the flags given.
func ifinfo(name string, flags uint32) ([]byte, error) {
	index, err := indexOf(name)
	if err != nil {
		return nil, err
	}
	b := []byte{unix.AF_UNSPEC, 0, 0, 0}
	for _, v := range []uint32{index, flags, flags} { // the last is the mask of what changes
		b = binary.NativeEndian.AppendUint32(b, v)
	}
	return b, nil
}

// attr appends a struct rtattr with its value, padded.
func attr(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func family(ipv6 bool) byte {
	if ipv6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func indexOf(name string) (uint32, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return 0, err
	}
	return uint32(i.Index), nil
}
