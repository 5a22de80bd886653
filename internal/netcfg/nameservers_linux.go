package netcfg

import (
	"bufio"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// uplinks follows the nameservers that systemd-resolved has from the host's
// other links, in the file that it keeps for whoever won't ask it.
type uplinks struct {
	own []netip.Addr // the stack's, which are in that file too

	mu      sync.Mutex
	written time.Time
	servers []netip.AddrPort
}

const uplinksFile = resolvedDir + "/resolv.conf"

// Nameservers are those that the stack's nameserver, and our own lookups, must
// ask once systemd-resolved asks the stack: /etc/resolv.conf then leads back to
// it. Nil, where systemd-resolved was not told, means what that file says.
func (h *Host) Nameservers() []netip.AddrPort {
	if u := h.uplinks.Load(); u != nil {
		return u.list()
	}
	return nil
}

func (u *uplinks) list() []netip.AddrPort {
	u.mu.Lock()
	defer u.mu.Unlock()
	if st, err := os.Stat(uplinksFile); err == nil && !st.ModTime().Equal(u.written) {
		if b, err := os.ReadFile(uplinksFile); err == nil {
			u.written, u.servers = st.ModTime(), u.parse(string(b))
		}
	}
	return u.servers
}

func (u *uplinks) parse(text string) []netip.AddrPort {
	var list []netip.AddrPort
	for s := bufio.NewScanner(strings.NewReader(text)); s.Scan(); {
		f := strings.Fields(s.Text())
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil && !slices.Contains(u.own, a) {
			list = append(list, netip.AddrPortFrom(a, 53))
		}
	}
	return list
}
