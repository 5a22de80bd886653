package netcfg

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"netstackd/internal/resolvconf"
)

// resolved is systemd-resolved's knowledge of the TUN's nameserver. It belongs
// to the link: when the TUN goes, with a killed daemon too, it goes.
type resolved struct {
	link string
	path string // of resolvectl
}

// tellResolved makes servers the nameservers for every domain. It returns nil
// where systemd-resolved doesn't run, or runs in another network namespace.
// resolvectl rather than D-Bus: one program that is there whenever the service
// is, instead of one more dependency.
func tellResolved(ctx context.Context, link string, servers []netip.Addr) (*resolved, error) {
	path, err := exec.LookPath("resolvectl")
	if err != nil {
		return nil, nil
	}
	if _, err := os.Stat(resolvconf.ResolvedDir); err != nil || !sameNamespaceAsInit() {
		return nil, nil
	}
	r := &resolved{link: link, path: path}
	list := make([]string, 0, len(servers))
	for _, s := range servers {
		list = append(list, s.String())
	}
	for _, args := range [][]string{
		append([]string{"dns", link}, list...),
		{"domain", link, "~."}, // every domain, before those of other links
		{"default-route", link, "yes"},
		{"dnssec", link, "no"}, // the answers' signatures are the real resolver's to check
		{"dnsovertls", link, "no"},
		{"llmnr", link, "no"},
		{"mdns", link, "no"},
	} {
		if err := r.run(ctx, args...); err != nil {
			r.Close()
			return nil, err
		}
	}
	r.run(ctx, "flush-caches") // answers from before the capture may be another network's
	return r, nil
}

// Close takes it back. The link must still be there.
func (r *resolved) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return r.run(ctx, "revert", r.link)
}

func (r *resolved) run(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, r.path, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("resolvectl %s: %w: %s", strings.Join(args, " "), err, firstLine(out))
	}
	return nil
}

func firstLine(b []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	return line
}

// sameNamespaceAsInit reports whether this thread's network namespace is that
// of process 1, and so of the system's services: an interface of ours may be
// another one there, by the same number.
func sameNamespaceAsInit() bool {
	own, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return false
	}
	init, err := os.Readlink("/proc/1/ns/net")
	return err == nil && own == init
}
