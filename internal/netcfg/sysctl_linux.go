package netcfg

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"netstackd/internal/sysctl"
)

// setLink sets one of the TUN's own settings. One that went with its interface
// needs no undo.
func setLink(name string, value int) error {
	err := sysctl.Write(name, strconv.Itoa(value))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// enableIPv6 reports whether the TUN can have IPv6. Where only new interfaces
// are made without it, the TUN gets it: traffic of the others would leak past
// a capture otherwise. That setting is the TUN's own and goes with it.
func (h *Host) enableIPv6() (bool, error) {
	name := "net/ipv6/conf/" + h.link + "/disable_ipv6"
	off, err := sysctl.Int(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // the kernel has no IPv6, or ipv6.disable=1
	}
	if err != nil {
		return false, err
	}
	if off == 0 {
		return true, nil
	}
	if used, err := h.otherIPv6(); err != nil || !used {
		return false, err
	}
	if err := setLink(name, 0); err != nil {
		return false, fmt.Errorf("IPv6 is off on %s (mend: sysctl -w net.ipv6.conf.%s.disable_ipv6=0): %w", h.link, h.link, err)
	}
	h.push(func() error { return setLink(name, 1) })
	return true, nil
}

// otherIPv6 reports whether any other interface than loopback has IPv6 on.
func (h *Host) otherIPv6() (bool, error) {
	links, err := h.nl.LinkList()
	if err != nil {
		return false, fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range links {
		if n := l.Attrs().Name; n != "lo" && n != h.link {
			if off, err := sysctl.Int("net/ipv6/conf/" + n + "/disable_ipv6"); err == nil && off == 0 {
				return true, nil
			}
		}
	}
	return false, nil
}
