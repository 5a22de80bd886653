// Package resolvconf reads resolv.conf(5).
package resolvconf

import (
	"net/netip"
	"os"
	"strings"
)

const (
	// Path is the file that the C library reads.
	Path = "/etc/resolv.conf"
	// ResolvedDir exists while systemd-resolved runs.
	ResolvedDir = "/run/systemd/resolve"
	// UplinksPath is the file in which systemd-resolved lists the nameservers that
	// it asks itself. Path may name only its own, on loopback.
	UplinksPath = ResolvedDir + "/resolv.conf"
)

// Config is what a file says.
type Config struct {
	// Nameservers are in the file's order. The C library asks loopback where
	// there are none.
	Nameservers []netip.Addr
	// Others are the other settings, a line each, with single spaces.
	Others []string
}

// Read reads a file. On an error, Config is that of an empty file.
func Read(path string) (Config, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Config{}, err
	}
	return Parse(string(b)), nil
}

// Parse leaves out comments, settings without a value and nameservers that are
// no addresses.
func Parse(text string) (c Config) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") || strings.HasPrefix(fields[0], ";") {
			continue
		}
		if fields[0] != "nameserver" {
			c.Others = append(c.Others, strings.Join(fields, " "))
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil {
			c.Nameservers = append(c.Nameservers, a)
		}
	}
	return c
}
