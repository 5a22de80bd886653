package sandbox

import (
	"net/netip"
	"os"
	"strings"
)

const resolvConf = "/etc/resolv.conf"

// hostConf is the host's resolv.conf(5).
type hostConf struct {
	nameservers []netip.Addr
	rest        []string // its lines but for nameservers and comments
}

// readResolvConf reads a file, as an empty one if it can't.
func readResolvConf(path string) hostConf {
	b, _ := os.ReadFile(path)
	return parseResolvConf(string(b))
}

func parseResolvConf(text string) (c hostConf) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") || strings.HasPrefix(fields[0], ";") {
			continue
		}
		if fields[0] != "nameserver" {
			c.rest = append(c.rest, strings.Join(fields, " "))
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil {
			c.nameservers = append(c.nameservers, a)
		}
	}
	return c
}

// rewritten is the file as the command sees it: the search list and options of
// the host, one nameserver of ours.
func (c hostConf) rewritten(nameserver netip.Addr) []byte {
	lines := []string{"# netstackd exec: the nameserver is netstackd's, for this command only"}
	if nameserver.IsValid() {
		lines = append(lines, "nameserver "+nameserver.String())
	}
	return []byte(strings.Join(append(lines, c.rest...), "\n") + "\n")
}

// loopback returns the nameservers on the host's loopback. Without any
// nameserver it returns those that resolvers fall back to.
func (c hostConf) loopback() (addrs []netip.Addr) {
	if len(c.nameservers) == 0 {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	}
	for _, a := range c.nameservers {
		if a = a.Unmap().WithZone(""); a.IsLoopback() {
			addrs = append(addrs, a)
		}
	}
	return addrs
}
