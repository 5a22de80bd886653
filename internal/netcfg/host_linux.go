package netcfg

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Host is the host side of one TUN. Its methods may be called concurrently and
// from any thread; they act on the network namespace that Open ran in.
type Host struct {
	link  string
	index int
	cfg   Config
	log   *slog.Logger

	nl      *netlink.Handle
	lookups *nl.SocketHandle
	monitor *monitor
	slot    *slot // nil for an ordinary user
	mark    uint32
	local   localSet
	uplinks atomic.Pointer[uplinks] // nil unless systemd-resolved was told of the stack

	mu       sync.Mutex // serializes changes to the host
	families []family   // those that the TUN has addresses of
	undo     undoStack  // interface and addresses
	capture  *capture   // nil unless capturing
	closed   bool
}

// Open gives the interface named link its MTU and addresses, routes the stack's
// address to it and brings it up. Nothing else is routed before Capture. It
// first removes what a daemon that was killed left on this host.
//
// An IPv6 address is skipped where the host has no IPv6 at all; Families tells.
// On error nothing is left. Close undoes everything.
func Open(ctx context.Context, link string, cfg Config) (_ *Host, err error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Interface == link {
		return nil, fieldError("Interface", "netcfg: interface %s is the TUN itself: name the one that traffic leaves this host by", link)
	}
	h := &Host{link: link, cfg: cfg, log: cfg.Log, mark: cfg.Mark}
	defer func() {
		if err != nil {
			err = fmt.Errorf("netcfg: %w", permission(errors.Join(err, h.Close())))
		}
	}()
	if h.nl, err = openHandle(); err != nil {
		return nil, err
	}
	if h.lookups, err = openLookups(); err != nil {
		return nil, err
	}
	// The monitor is open before the first look, so that no change is missed.
	if h.monitor, err = openMonitor(); err != nil {
		return nil, err
	}
	own, err := h.nl.LinkByName(link)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", link, err)
	}
	if n, err := cleanup(h.nl, own.Attrs().Index); err != nil {
		return nil, fmt.Errorf("clean up after a killed daemon: %w", err)
	} else if n > 0 {
		h.log.Info("removed what a killed daemon left", "rules and routes", n)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := h.configureLink(); err != nil {
		return nil, err
	}
	if err := h.reserve(); err != nil {
		return nil, err
	}
	if err := checkReversePath(h.nl, cfg.Interface); err != nil {
		return nil, err
	}
	return h, h.refreshLocal()
}

// reserve takes the numbers of our rules, so that the mark is known before the
// first outbound socket, and shields the stack. An ordinary user, whose TUN was
// made with its routes, can do neither and needs the first only to capture.
func (h *Host) reserve() error {
	s, err := acquire(h.nl, h.index)
	if errors.Is(err, unix.EPERM) && len(h.cfg.Routes) == 0 {
		h.log.Debug("not privileged: forwarded packets are not kept from the stack", "err", err)
		return nil
	}
	if err != nil {
		return err
	}
	h.slot = &s
	h.push(func() error { return s.release(h.nl, h.index) })
	if err := h.shield(); err != nil {
		return err
	}
	if h.mark != 0 || len(h.cfg.Routes) == 0 {
		return nil
	}
	rules, err := listRules(h.nl)
	if err != nil {
		return err
	}
	h.mark, err = chooseMark(rules, s.n)
	return err
}

// shield keeps the stack's address for this host.
func (h *Host) shield() error {
	for _, f := range h.families {
		rules := planShield(f, h.cfg)
		h.push(func() error { return h.deleteRules(f, rules) })
		if err := h.syncRules(f, rules); err != nil {
			return err
		}
	}
	return nil
}

// Mark is the SO_MARK that outbound sockets must carry, 0 for none.
func (h *Host) Mark() uint32 { return h.mark }

// Families reports which address families the TUN carries.
func (h *Host) Families() (v4, v6 bool) {
	return slices.Contains(h.families, ipv4), slices.Contains(h.families, ipv6)
}

// IsLocal reports whether a is one of this host's own addresses, on whatever
// interface. It is one map lookup, kept up to date by Watch.
func (h *Host) IsLocal(a netip.Addr) bool { return h.local.contains(a) }

// Close undoes all that Open and Capture did, ends Watch, and returns what
// could not be undone. A second Close does nothing.
func (h *Host) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	h.closed = true
	var errs []error
	if h.capture != nil {
		errs = append(errs, h.capture.undo())
		h.capture = nil
	}
	errs = append(errs, h.undo.run())
	if h.monitor != nil {
		errs = append(errs, h.monitor.Close())
	}
	if h.lookups != nil {
		h.lookups.Close()
	}
	if h.nl != nil {
		h.nl.Close()
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("netcfg: undo: %w", err)
	}
	return nil
}

// refreshLocal reads the host's addresses again.
func (h *Host) refreshLocal() error {
	addrs, err := retryDump(func() ([]netlink.Addr, error) { return h.nl.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	list := make([]netip.Addr, 0, len(addrs))
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			list = append(list, ip)
		}
	}
	h.local.store(list)
	return nil
}
