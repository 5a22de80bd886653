//go:build linux

package main_test

import (
	"net/http"
	"testing"

	"netstackd/internal/testnet"
)

// A program that chooses its interface goes around --route, and not with --strict.
func TestIntegrationStrict(t *testing.T) {
	testnet.RequireTool(t, "curl", "nft")
	for _, args := range [][]string{nil, {"--strict"}, {"--strict=keep"}} {
		n, d := startRouted(t, args...)
		web := n.B.ServeHTTP(t, ":0", http.HandlerFunc(testnet.PeerPage))
		bothFamilies(t, func(t *testing.T, f testnet.Family) {
			url := "http://" + dest(f, 2, web) + "/"
			n.A.Through(t, tun, 100, 100, func() {
				n.A.Run(t, "curl", "-sS", "--max-time", "10", url)
			})
			for _, way := range []string{testnet.Device, n.A.Addr(f).String()} {
				if _, err := n.A.Output("curl", "-sS", "--connect-timeout", "2", "--interface", way, url); (err == nil) != (args == nil) {
					t.Errorf("%v: curl --interface %s: %v", args, way, err)
				}
			}
		})
		d.Stop()
	}
}
