package netcfg

import (
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"netstackd/internal/resolvconf"
)

// uplinks follows the nameservers that systemd-resolved has from the host's
// other links, in the file that it keeps for programs that do not ask it.
type uplinks struct {
	own []netip.Addr // the stack's, which are in that file too

	mu      sync.Mutex
	written time.Time
	servers []netip.AddrPort
}

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
	st, err := os.Stat(resolvconf.UplinksPath)
	if err != nil || st.ModTime().Equal(u.written) {
		return u.servers
	}
	conf, err := resolvconf.Read(resolvconf.UplinksPath)
	if err != nil {
		return u.servers
	}
	u.written, u.servers = st.ModTime(), nil
	for _, a := range conf.Nameservers {
		if !slices.Contains(u.own, a) {
			u.servers = append(u.servers, netip.AddrPortFrom(a, 53))
		}
	}
	return u.servers
}
