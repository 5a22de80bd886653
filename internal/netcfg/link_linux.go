package netcfg

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// addrGenNone is IN6_ADDR_GEN_MODE_NONE of linux/if_link.h: no link-local
// address, and so no router solicitation or multicast report into the stack.
const addrGenNone = 1

// configureLink does what Open says. Each step pushes its undo, which matters
// for an adopted TUN: one of our own goes with its last descriptor. What is as
// wanted already may be so by root's hand, and ours may be an ordinary user's.
func (h *Host) configureLink() error {
	link, err := h.nl.LinkByName(h.link)
	if err != nil {
		return fmt.Errorf("interface %s: %w", h.link, err)
	}
	attrs := link.Attrs()
	h.index = attrs.Index
	if h.cfg.MTU != 0 && h.cfg.MTU != attrs.MTU {
		if err := h.nl.LinkSetMTU(link, h.cfg.MTU); err != nil {
			return fmt.Errorf("set mtu %d on %s: %w", h.cfg.MTU, h.link, err)
		}
		h.push(func() error { return h.nl.LinkSetMTU(link, attrs.MTU) })
	}
	if q := h.cfg.TxQueueLen; q != 0 && q != attrs.TxQLen {
		if err := h.nl.LinkSetTxQLen(link, q); err != nil {
			return fmt.Errorf("set queue length %d on %s: %w", q, h.link, err)
		}
		h.push(func() error { return h.nl.LinkSetTxQLen(link, attrs.TxQLen) })
	}
	addrs, err := h.usableAddresses()
	if err != nil {
		return err
	}
	if err := addressesFree(h.nl, h.index, addrs); err != nil {
		return err
	}
	up := attrs.Flags&net.FlagUp != 0
	if !up {
		// Kernels without IPv6 refuse this; it is about IPv6 only.
		if err := h.nl.LinkSetIP6AddrGenMode(link, addrGenNone); err != nil {
			h.log.Debug("link-local address left to the kernel", "err", err)
		}
	}
	for _, a := range addrs {
		if err := h.addAddress(link, a); err != nil {
			return err
		}
	}
	if !up {
		if err := h.nl.LinkSetUp(link); err != nil {
			return fmt.Errorf("bring %s up: %w", h.link, err)
		}
		h.push(func() error { return h.nl.LinkSetDown(link) })
	}
	for _, n := range h.keepNeighbors() {
		h.push(func() error { return h.nl.NeighDel(n) })
	}
	for _, a := range addrs {
		if err := h.awaitAddress(a.Addr()); err != nil {
			return err
		}
		if err := h.routeStack(a); err != nil {
			return err
		}
		f := ipv6
		if a.Addr().Is4() {
			f = ipv4
		}
		if !slices.Contains(h.families, f) {
			h.families = append(h.families, f)
		}
	}
	return nil
}

// keepNeighbors makes the TUN's neighbors permanent. When the kernel's neighbor
// table is full (gc_thresh3), as in a flood from false addresses of a LAN, the
// kernel removes other entries first and can't add them again: then no packet gets
// into the TUN. It does not remove permanent entries. They go when the TUN is down.
//
// A point-to-point interface has one IPv4 neighbor, 0.0.0.0, for all destinations.
// Of IPv6 each next hop is one, so that routes into the TUN go by the stack's address.
//
// Without the right to add them the TUN works, but for such a flood. It returns
// those that it added.
func (h *Host) keepNeighbors() []*netlink.Neigh {
	var kept []*netlink.Neigh
	for _, n := range h.neighbors() {
		if err := h.nl.NeighSet(n); err != nil {
			h.log.Debug("the TUN's neighbor is not permanent", "ip", n.IP, "err", err)
			continue
		}
		kept = append(kept, n)
	}
	return kept
}

func (h *Host) neighbors() []*netlink.Neigh {
	list := []*netlink.Neigh{{LinkIndex: h.index, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT, IP: net.IPv4zero}}
	for _, a := range h.cfg.Addresses {
		if !a.Addr().Is4() {
			list = append(list, &netlink.Neigh{
				LinkIndex: h.index, Family: netlink.FAMILY_V6, State: netlink.NUD_PERMANENT, IP: a.Addr().Next().AsSlice(),
			})
		}
	}
	return list
}

// push records an undo on the interface; one that is gone needs none.
func (h *Host) push(f func() error) {
	h.undo.push(func() error {
		if err := f(); err != nil && !gone(err) {
			return err
		}
		return nil
	})
}

// usableAddresses leaves out IPv6 where the host has none.
func (h *Host) usableAddresses() ([]netip.Prefix, error) {
	var addrs []netip.Prefix
	for _, a := range h.cfg.Addresses {
		if !a.Addr().Is4() {
			ok, err := h.enableIPv6()
			if err != nil {
				return nil, fmt.Errorf("address %s: %w", a, err)
			}
			if !ok {
				h.log.Info("this host has no IPv6: the TUN goes without", "address", a.String())
				continue
			}
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}

// AddressesFree is what Open would say of addresses that are in use. The interface
// named link, "" for none, may have them.
func AddressesFree(link string, addrs []netip.Prefix) error {
	nl, err := openHandle()
	if err != nil {
		return fmt.Errorf("netcfg: %w", err)
	}
	defer nl.Close()
	own := 0
	if l, err := nl.LinkByName(link); link != "" && err == nil {
		own = l.Attrs().Index
	}
	if err := addressesFree(nl, own, addrs); err != nil {
		return fmt.Errorf("netcfg: %w", err)
	}
	return nil
}

// addressesFree refuses a subnet that another interface than own is in: the kernel
// would take both and send to one.
func addressesFree(nl *netlink.Handle, own int, addrs []netip.Prefix) error {
	existing, err := retryDump(func() ([]netlink.Addr, error) { return nl.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	var taken []string
	for _, e := range existing {
		ip, _ := netip.AddrFromSlice(e.IP)
		ip = ip.Unmap()
		for _, a := range addrs {
			if e.LinkIndex != own && a.Contains(ip) {
				on := fmt.Sprint("interface ", e.LinkIndex)
				if l, err := nl.LinkByIndex(e.LinkIndex); err == nil {
					on = l.Attrs().Name
				}
				taken = append(taken, fmt.Sprintf("%s (%s has %s)", a, on, e.IPNet))
			}
		}
	}
	if len(taken) > 0 {
		return fieldError("Addresses", "address %s: choose another prefix", strings.Join(taken, ", "))
	}
	return nil
}

// addAddress adds the address without the route of its whole subnet, which
// would bring packets that our own sockets send to unused addresses of that
// subnet back into the TUN, for ever.
func (h *Host) addAddress(link netlink.Link, p netip.Prefix) error {
	addr := &netlink.Addr{
		IPNet:     toIPNet(p),
		Flags:     unix.IFA_F_NOPREFIXROUTE,
		Broadcast: net.IPv4zero, // none: nobody on this link would answer one
	}
	if !p.Addr().Is4() {
		addr.Broadcast = nil
		addr.Flags |= unix.IFA_F_NODAD // usable at once; there is no neighbour to ask
	}
	err := h.nl.AddrAdd(link, addr)
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EPERM) && h.hasAddress(link, p) {
		return nil // made for us with its address: not ours to remove
	}
	if err != nil {
		return fmt.Errorf("add address %s to %s: %w", p, h.link, err)
	}
	h.push(func() error { return h.nl.AddrDel(link, addr) })
	return nil
}

// hasAddress reports whether the link has the address, of that prefix.
func (h *Host) hasAddress(link netlink.Link, p netip.Prefix) bool {
	addrs, err := retryDump(func() ([]netlink.Addr, error) { return h.nl.AddrList(link, netlink.FAMILY_ALL) })
	return err == nil && slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IPNet.String() == p.String() })
}

// awaitAddress returns when the kernel takes packets to an IPv6 address: it
// makes the route to an address of its own a while after the address.
func (h *Host) awaitAddress(addr netip.Addr) error {
	if addr.Is4() {
		return nil
	}
	deadline := time.Now().Add(2 * time.Second)
	for {
		routes, err := listTable(h.nl, netlink.FAMILY_V6, unix.RT_TABLE_LOCAL)
		if err != nil {
			return err
		}
		for _, r := range routes {
			if r.Dst != nil && fromIPNet(r.Dst, ipv6).Addr() == addr {
				return nil
			}
		}
		err = h.monitor.read(context.Background(), deadline)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("address %s on %s: the kernel doesn't use it (`ip addr show dev %s`)", addr, h.link, h.link)
		}
		if err != nil {
			return err
		}
	}
}

// routeStack routes the stack's address, the one after the host's.
func (h *Host) routeStack(p netip.Prefix) error {
	stack := p.Addr().Next()
	if !p.Contains(stack) {
		return nil
	}
	route := &netlink.Route{
		LinkIndex: h.index,
		Scope:     netlink.SCOPE_LINK,
		Dst:       toIPNet(netip.PrefixFrom(stack, stack.BitLen())),
		Src:       p.Addr().AsSlice(),
		Protocol:  Protocol,
	}
	err := h.nl.RouteReplace(route)
	if errors.Is(err, unix.EPERM) && h.leadsTo(stack) {
		return nil // by a route that was made for us
	}
	if err != nil {
		return fmt.Errorf("route %s to %s: %w", stack, h.link, err)
	}
	h.push(func() error { return h.nl.RouteDel(route) })
	return nil
}

// leadsTo reports whether the host sends packets for an address into the TUN.
func (h *Host) leadsTo(a netip.Addr) bool {
	routes, err := h.nl.RouteGet(a.AsSlice())
	return err == nil && len(routes) > 0 && routes[0].LinkIndex == h.index
}
