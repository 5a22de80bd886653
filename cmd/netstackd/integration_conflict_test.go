//go:build linux

package main_test

import (
	"testing"
)

// A second daemon says at once all that the first one has, and works when it has
// been given others.
func TestIntegrationSecondDaemon(t *testing.T) {
	n, d := start(t)
	run(t, n.A.Command(t.Context(), program.Path(t))).
		oneLine(t, 1, tun, "--tun", "198.18.0.1/30", "fd19:8::1/126", "--address", "127.0.0.1:1080", "--socks")
	second := n.A.Start(t, program.Path(t), "--tun", "netstackd1", "--address", "198.18.0.5/30", "--socks", "127.0.0.1:1081")
	second.Stop()
	d.Stop()
}
