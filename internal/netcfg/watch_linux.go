package netcfg

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrLinkGone says that the TUN was deleted.
var ErrLinkGone = errors.New("interface deleted")

// Watch follows changes of the network until ctx ends or Close is called, and
// then returns nil. It keeps IsLocal up to date and table T in step with the
// directly connected subnets, and puts back what others removed of ours. It
// returns an error that wraps ErrLinkGone when the TUN is deleted.
func (h *Host) Watch(ctx context.Context) error {
	for {
		// Look first: something may have changed since Open.
		if err := h.follow(); err != nil {
			return err
		}
		err := h.monitor.wait(ctx)
		switch {
		case ctx.Err() != nil, h.isClosed():
			return nil
		case err != nil:
			return fmt.Errorf("netcfg: watch: %w", err)
		}
	}
}

func (h *Host) isClosed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.closed
}

// follow reads the network again and restores what is ours. Only the loss
// of the TUN is an error; anything else is tried again at the next change.
func (h *Host) follow() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	link, err := h.nl.LinkByIndex(h.index)
	if gone(err) {
		return fmt.Errorf("netcfg: %s: %w", h.link, ErrLinkGone)
	}
	if err != nil {
		h.log.Warn("can't see the TUN", "err", err)
		return nil
	}
	if err := h.refreshLocal(); err != nil {
		h.log.Warn("this host's addresses may be out of date", "err", err)
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		h.log.Warn("the TUN is down, nothing is captured", "mend", "ip link set "+h.link+" up")
		return nil
	}
	if err := h.restoreAddresses(link); err != nil {
		h.log.Warn("the TUN's address", "err", err)
	}
	h.keepNeighbors()
	if h.slot != nil {
		if err := h.restoreSlot(); err != nil {
			h.log.Warn("the stack's address is open to forwarded packets", "err", err)
		}
	}
	if h.capture != nil {
		if err := h.capture.sync(); err != nil {
			h.log.Warn("capture is incomplete", "err", err)
		}
		h.capture.check()
	}
	return nil
}

// restoreSlot puts back what keeps our numbers and the stack's address for us.
func (h *Host) restoreSlot() error {
	if err := h.slot.claim(h.nl, h.index); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	for _, f := range h.families {
		if err := h.syncRules(f, planShield(f, h.cfg)); err != nil {
			return err
		}
	}
	return nil
}

// restoreAddresses puts back what went when the TUN was down for a while: the
// kernel drops IPv6 addresses then, and every route.
func (h *Host) restoreAddresses(link netlink.Link) error {
	for _, f := range h.families {
		addrs, err := retryDump(func() ([]netlink.Addr, error) { return h.nl.AddrList(link, f.nl()) })
		if err != nil {
			return err
		}
		have := make(map[netip.Addr]bool)
		for _, a := range addrs {
			ip, _ := netip.AddrFromSlice(a.IP)
			have[ip.Unmap()] = true
		}
		routes, err := retryDump(func() ([]netlink.Route, error) { return h.nl.RouteList(link, f.nl()) })
		if err != nil {
			return err
		}
		routed := make(map[netip.Prefix]bool)
		for _, r := range routes {
			routed[fromIPNet(r.Dst, f)] = true
		}
		for _, p := range h.cfg.Addresses {
			if !f.of(p) {
				continue
			}
			if !have[p.Addr()] {
				if err := h.addAddress(link, p); err != nil {
					return err
				}
			}
			stack := p.Addr().Next()
			if !routed[netip.PrefixFrom(stack, stack.BitLen())] {
				if err := h.routeStack(p); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
