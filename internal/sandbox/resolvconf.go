package sandbox

import (
	"net/netip"
	"strings"

	"netstackd/internal/resolvconf"
)

// commandConf is the resolv.conf that the command sees: the search list and
// options of the host's, and one nameserver of ours.
func commandConf(host resolvconf.Config, nameserver netip.Addr) []byte {
	lines := []string{"# netstackd exec: the nameserver is netstackd's, for this command only"}
	if nameserver.IsValid() {
		lines = append(lines, "nameserver "+nameserver.String())
	}
	return []byte(strings.Join(append(lines, host.Others...), "\n") + "\n")
}

// loopbackServers returns the nameservers on the host's loopback. Without any
// nameserver it returns those that resolvers fall back to.
func loopbackServers(host resolvconf.Config) (addrs []netip.Addr) {
	if len(host.Nameservers) == 0 {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	}
	for _, a := range host.Nameservers {
		if a = a.Unmap().WithZone(""); a.IsLoopback() {
			addrs = append(addrs, a)
		}
	}
	return addrs
}
