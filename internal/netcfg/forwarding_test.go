//go:build linux

package netcfg_test

import (
	"os/exec"
	"strings"
	"testing"

	"netstackd/internal/netcfg"
	"netstackd/internal/testnet"
)

// What Forwarding says is missing is mended by the commands that it gives.
func TestIntegrationForwarding(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	openTUN(t, tunName)
	cfg := testConfig()
	open(t, cfg)
	setSysctl(t, "ipv4/ip_forward", "0")
	before := hostState(t)
	line := netcfg.Forwarding(t.Context(), tunName, cfg.Addresses)
	sameState(t, before, hostState(t))
	for _, want := range []string{"net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "198.18.0.0/30", "fd19:8::/126", "masquerade"} {
		if !strings.Contains(line, want) {
			t.Errorf("no %q in %q", want, line)
		}
	}
	if strings.Contains(line, "\n") {
		t.Errorf("more than a line: %q", line)
	}
	_, mend, _ := strings.Cut(line, "it needs ")
	_, mend, _ = strings.Cut(mend, ": ")
	if out, err := exec.Command("sh", "-ec", mend).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", mend, err, out)
	}
	if line := netcfg.Forwarding(t.Context(), tunName, cfg.Addresses); line != "" {
		t.Errorf("after the mend: %s", line)
	}
}
