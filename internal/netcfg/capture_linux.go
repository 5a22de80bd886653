package netcfg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
)

// capture is what moves traffic into the TUN while it lasts.
type capture struct {
	h         *Host
	releasing bool            // new flows are let go, captured ones still drain
	cgroups   []*os.File      // each keeps one cgroup out
	services  *os.File        // keeps this host's UDP services answering; nil if it can't
	resolved  *resolved       // nil unless systemd-resolved was told of us
	strict    *strict         // nil unless what goes around the capture is refused
	warned    string          // the obstacle that was logged last
	detoured  map[string]bool // the detours that were logged
}

// Capture moves Config.Routes into the TUN. Call it once the stack serves; it
// does nothing without routes. On error nothing of it is left.
func (h *Host) Capture(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.cfg.Routes) == 0 || h.capture != nil || h.closed {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	c := &capture{h: h}
	err := c.start(ctx)
	if err == nil {
		err = c.prove()
	}
	if err != nil {
		return fmt.Errorf("netcfg: capture: %w", permission(errors.Join(err, c.undo())))
	}
	c.warnDetours()
	h.capture = c
	return nil
}

// Release lets new flows go where they went before. Those that were captured
// keep their way through the TUN until Close, so that they can drain.
func (h *Host) Release() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.capture == nil {
		return nil
	}
	h.capture.releasing = true
	err := errors.Join(h.capture.forgetDNS(), h.capture.relent(),
		h.capture.removeRules(func(r rule) bool { return !r.draining && r.action != nop }))
	if err != nil {
		return fmt.Errorf("netcfg: release: %w", err)
	}
	return nil
}

// start makes the exclusions first, so that they hold from the first flow.
func (c *capture) start(ctx context.Context) error {
	for _, path := range c.h.cfg.ExcludeCgroups {
		f, err := excludeCgroup(path, c.h.mark)
		if err != nil {
			return err
		}
		c.cgroups = append(c.cgroups, f)
	}
	if c.h.cfg.Gateway {
		if err := c.h.relaxReversePath(); err != nil {
			return err
		}
	}
	var err error
	c.services, err = serveUDP(fmt.Sprint("netstackd-", c.h.slot.n), c.h.index, c.h.mark, c.h.cfg.Addresses)
	if err != nil {
		c.h.log.Warn("UDP services of this host that are bound to no address won't answer captured destinations",
			"err", err, "mend", "a kernel with CONFIG_NF_TABLES_INET and CONFIG_NFT_SOCKET")
	}
	if err := c.sync(); err != nil {
		return err
	}
	if c.h.cfg.Strict != StrictOff {
		if err := c.enforce(); err != nil {
			return err
		}
	}
	if err := c.dropKept(); err != nil {
		return err
	}
	if len(c.h.cfg.DNS) > 0 && (hasDefault(ipv4, c.h.cfg.Routes) || hasDefault(ipv6, c.h.cfg.Routes)) {
		if c.resolved, err = tellResolved(ctx, c.h.link, c.h.cfg.DNS); err != nil {
			return err
		}
		if c.resolved != nil {
			c.h.uplinks.Store(&uplinks{own: c.h.cfg.DNS})
		}
	}
	return nil
}

// sync brings table and rules to what they should be and changes nothing that
// already is. Table first: rules must not lead to an empty one for a moment.
func (c *capture) sync() error {
	for _, f := range c.h.families {
		if err := c.syncTables(f); err != nil {
			return err
		}
		if err := c.h.syncRules(f, c.rules(f)); err != nil {
			return err
		}
	}
	if c.strict == nil {
		return nil
	}
	sets, err := c.strictSets()
	if err != nil {
		return err
	}
	return c.strict.sync(sets)
}

// relent lets go around the capture what will.
func (c *capture) relent() error {
	s := c.strict
	if s == nil {
		return nil
	}
	c.strict = nil
	return s.close()
}

// dropKept removes what killed strict daemons kept, now that this one captures.
func (c *capture) dropKept() error {
	for n := range maxSlots {
		s := slot{n}
		if n == c.h.slot.n && c.strict != nil {
			continue
		}
		if taken, err := s.taken(c.h.nl, c.h.index); err != nil || taken {
			continue
		}
		if _, err := s.dropKept(); err != nil {
			return err
		}
	}
	return nil
}

// rules are the wanted ones of a family, in the order in which to add them.
func (c *capture) rules(f family) []rule {
	rules := planRules(f, c.h.link, c.h.mark, c.h.cfg.Addresses, c.h.cfg)
	if c.releasing {
		rules = slices.DeleteFunc(rules, func(r rule) bool { return !r.draining && r.action != nop })
	}
	return rules
}

// undo removes rules and routes, in the reverse order.
func (c *capture) undo() error {
	errs := []error{c.forgetDNS(), c.relent(), c.removeRules(func(rule) bool { return true })}
	for _, f := range append(c.cgroups, c.services) {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	for _, table := range c.h.slot.tables() {
		_, err := cleanTable(c.h.nl, table)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// forgetDNS tells systemd-resolved to go back to its other nameservers. If the
// TUN is gone it has done so.
func (c *capture) forgetDNS() error {
	r := c.resolved
	c.resolved = nil
	c.h.uplinks.Store(nil)
	if _, err := c.h.nl.LinkByIndex(c.h.index); err != nil || r == nil {
		return nil
	}
	return r.Close()
}

func (c *capture) removeRules(which func(rule) bool) error {
	var errs []error
	for _, f := range c.h.families {
		rules := planRules(f, c.h.link, c.h.mark, c.h.cfg.Addresses, c.h.cfg)
		rules = slices.DeleteFunc(rules, func(r rule) bool { return !which(r) })
		errs = append(errs, c.h.deleteRules(f, rules))
	}
	return errors.Join(errs...)
}
