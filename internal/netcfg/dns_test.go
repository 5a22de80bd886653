//go:build linux

package netcfg_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netstackd/internal/netcfg"
	"netstackd/internal/testnet"
)

// Queries to a nameserver on a connected subnet are captured, by default route
// only and unless it is excluded; nothing else to it is.
func TestIntegrationDNS(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	tun := openTUN(t, tunName)
	before := hostState(t)
	peer53, peer54 := listenPeer(t, 53), listenPeer(t, 54)
	cfg := testConfig()
	cfg.Routes = netcfg.DefaultRoutes()
	h := open(t, cfg)
	for _, dst := range near {
		send(t, dst, 53, "query", nil)
		if p := tun.expect(t, dst, 53); p.proto != 17 {
			t.Errorf("protocol %d", p.proto)
		}
		send(t, dst, 54, "direct "+dst, nil)
		peer54.expect(t, "direct "+dst)
		send(t, dst, 53, "ours "+dst, func(fd int) error {
			return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(h.Mark()))
		})
		peer53.expect(t, "ours "+dst)
	}
	d := net.Dialer{Timeout: 50 * time.Millisecond} // nobody answers the SYN
	d.Dial("tcp", net.JoinHostPort(peerAddr4, "53"))
	tunSawTCP := false
	tun.mu.Lock()
	for _, p := range tun.seen {
		tunSawTCP = tunSawTCP || p.proto == 6 && p.dport == 53
	}
	tun.mu.Unlock()
	if !tunSawTCP {
		t.Error("DNS over TCP is not captured")
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	sameState(t, before, hostState(t))

	cfg.Excludes = prefixes("10.0.0.2/32", "fd00:1::2/128")
	excluding := cfg
	cfg.Excludes, cfg.Routes = nil, prefixes("203.0.113.0/24", "2001:db8::/32")
	explicit := cfg
	for name, cfg := range map[string]netcfg.Config{"excluded": excluding, "no default route": explicit} {
		h := open(t, cfg)
		for _, dst := range near {
			send(t, dst, 53, name+dst, nil)
			peer53.expect(t, name+dst)
		}
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
	}
	sameState(t, before, hostState(t))
}

// The stack's nameserver is set in systemd-resolved and removed again. The
// resolvectl here records its arguments.
func TestIntegrationResolved(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	os.MkdirAll("/run/systemd/resolve", 0o755)
	uplinks := "# This is /run/systemd/resolve/resolv.conf\nnameserver 198.18.0.2\nnameserver 10.0.0.2\nnameserver fd00:1::2\n"
	if err := os.WriteFile("/run/systemd/resolve/resolv.conf", []byte(uplinks), 0o644); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\necho \"$@\" >>" + dir + "/log\n[ \"$1\" != \"$FAIL\" ]\n"
	if err := os.WriteFile(filepath.Join(dir, "resolvectl"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	openTUN(t, tunName)
	before := hostState(t)
	cfg := testConfig()
	cfg.Routes = netcfg.DefaultRoutes()
	cfg.DNS = []netip.Addr{netip.MustParseAddr("198.18.0.2"), netip.MustParseAddr("fd19:8::2")}
	h := open(t, cfg)
	log := func() string {
		b, _ := os.ReadFile(dir + "/log")
		return string(b)
	}
	for _, want := range []string{"dns netstackd0 198.18.0.2 fd19:8::2\n", "domain netstackd0 ~.\n", "default-route netstackd0 yes\n"} {
		if !strings.Contains(log(), want) {
			t.Errorf("no %q in %s", want, log())
		}
	}
	if got := fmt.Sprint(h.Nameservers()); got != "[10.0.0.2:53 [fd00:1::2]:53]" {
		t.Errorf("nameservers %s", got)
	}
	if strings.Contains(log(), "revert") {
		t.Error("reverted too soon")
	}
	if err := h.Release(); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(log(), "revert"); n != 1 {
		t.Errorf("reverted %d times", n)
	}
	if h.Nameservers() != nil {
		t.Error("nameservers after Close")
	}
	if !strings.HasSuffix(log(), "revert netstackd0\n") {
		t.Errorf("not reverted: %s", log())
	}
	sameState(t, before, hostState(t))

	t.Setenv("FAIL", "domain")
	h, err := netcfg.Open(t.Context(), tunName, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Capture(t.Context()); err == nil || !strings.Contains(err.Error(), "resolvectl domain") {
		t.Errorf("Capture: %v", err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	sameState(t, before, hostState(t))
}
