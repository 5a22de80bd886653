package dns

import (
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"netstackd/internal/resolvconf"
)

const dnsPort = 53

// Nameservers follows the nameservers of a resolv.conf(5).
type Nameservers struct {
	path string

	mu      sync.Mutex
	checked time.Time
	seen    os.FileInfo
	servers []netip.AddrPort
}

// NewNameservers returns what follows the file path. The file may come and go.
func NewNameservers(path string) *Nameservers { return &Nameservers{path: path} }

// checkInterval is how often the file is looked at, at most.
const checkInterval = time.Second

// Servers returns the nameservers, in the file's order. Where it names none, that
// is the one on loopback, as the C library has it.
func (n *Nameservers) Servers() []netip.AddrPort {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	if n.servers != nil && now.Sub(n.checked) < checkInterval {
		return slices.Clone(n.servers)
	}
	n.checked = now
	info, err := os.Stat(n.path)
	same := err == nil && n.seen != nil && os.SameFile(info, n.seen) &&
		info.ModTime().Equal(n.seen.ModTime()) && info.Size() == n.seen.Size()
	if n.servers == nil || !same {
		n.seen = info
		n.servers = read(n.path)
	}
	return slices.Clone(n.servers)
}

// read returns the nameservers of a file.
func read(path string) (servers []netip.AddrPort) {
	conf, _ := resolvconf.Read(path) // no file names no nameserver
	for _, a := range conf.Nameservers {
		servers = append(servers, netip.AddrPortFrom(a, dnsPort))
	}
	if len(servers) == 0 {
		servers = append(servers, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), dnsPort))
	}
	return servers
}

// public are nameservers that can be asked from everywhere: Quad9's and
// Cloudflare's.
func public() []netip.AddrPort {
	return []netip.AddrPort{
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{9, 9, 9, 9}), dnsPort),
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{1, 1, 1, 1}), dnsPort),
	}
}

// Remote returns the nameservers to ask through an upstream. The host's own come
// first, for the upstream may be near enough to reach them, but for those on its
// loopback, which are not the upstream's; where all are, those that systemd-resolved
// asks. Public ones come last, for when none can be reached from there.
func (n *Nameservers) Remote() []netip.AddrPort {
	servers := reachable(n.Servers())
	if len(servers) == 0 {
		servers = reachable(read(resolvconf.UplinksPath))
	}
	for _, a := range public() {
		if !slices.Contains(servers, a) {
			servers = append(servers, a)
		}
	}
	return servers
}

// reachable leaves out addresses that mean something on this host alone.
func reachable(servers []netip.AddrPort) []netip.AddrPort {
	return slices.DeleteFunc(servers, func(a netip.AddrPort) bool {
		return a.Addr().Unmap().IsLoopback() || a.Addr().IsLinkLocalUnicast()
	})
}
