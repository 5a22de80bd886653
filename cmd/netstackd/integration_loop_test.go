//go:build linux

package main_test

import (
	"strings"
	"testing"
	"time"

	"netstackd/internal/testnet"
)

// An upstream on this host whose own connections are captured is refused at the
// start, in one line, where nothing is said of how it gets out.
func TestIntegrationUpstreamLoopRefused(t *testing.T) {
	testnet.RequireTool(t, "microsocks")
	n := testnet.New(t)
	startMicrosocks(t, n.A, "1081", "-i", "127.0.0.1")
	run(t, n.A.Command(t.Context(), program.Path(t), "--route", "default", "--via", "socks5://127.0.0.1:1081")).
		oneLine(t, 1, "--via socks5://127.0.0.1:1081", "microsocks", "--exclude-uid", "--exclude ")
}

// Where the upstream may connect elsewhere and does not, a flow of its own is
// refused at once, and a warning says so.
func TestIntegrationUpstreamLoopCut(t *testing.T) {
	testnet.RequireTool(t, "microsocks", "dig")
	n := testnet.New(t)
	tcp := n.B.ServeTCP(t, ":0", testnet.Echo)
	startMicrosocks(t, n.A, "1081", "-i", "127.0.0.1")
	d := n.A.Start(t, program.Path(t), append(routes(), "--drain", "0s",
		"--via", "socks5://127.0.0.1:1081")...)
	before := d.OpenFiles(t)
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		began := time.Now()
		if c, err := n.A.DialTimeout("tcp", dest(f, 1, tcp), 10*time.Second); err == nil {
			c.Close()
			t.Error("connected, by a way that comes back to itself")
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("refused after %v", took)
		}
		_, _ = n.A.Output("dig", "+short", "+tries=1", "+timeout=1", "@"+testnet.Dest(f, 3).String(), "www.test")
	})
	if files := d.OpenFiles(t); files > before+8 {
		t.Errorf("%d open files, %d before", files, before)
	}
	d.Stop()
	if got := strings.Count(d.Stderr(), "--exclude-uid"); got != 1 {
		t.Errorf("%d warnings, want 1", got)
	}
}

// An upstream on this host that connects to a server elsewhere sends nothing to a
// captured destination, and works.
func TestIntegrationUpstreamTunnel(t *testing.T) {
	testnet.RequireTool(t, "microsocks")
	n := testnet.New(t)
	tcp := n.B.ServeTCP(t, ":0", testnet.Echo)
	startMicrosocks(t, n.B, "1082")
	n.A.Start(t, program.Path(t), "--drain", "0s", "--tun", "netstackd1", "--address", "198.18.0.5/30",
		"--socks", "127.0.0.1:1081", "--via", "socks5://10.77.0.2:1082")
	d := n.A.Start(t, program.Path(t), append(routes(), "--drain", "0s", "--via", "socks5://127.0.0.1:1081")...)
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		n.A.Through(t, tun, 5, 5, func() {
			exchange(t, dialTCP(t, n.A, dest(f, 1, tcp)), "through the tunnel")
		})
	})
	d.Stop()
}

// An upstream on this host that is excluded works.
func TestIntegrationUpstreamExcluded(t *testing.T) {
	testnet.RequireTool(t, "microsocks", "setpriv")
	n := testnet.New(t)
	tcp := n.B.ServeTCP(t, ":0", testnet.Echo)
	const uid = "4711"
	upstream := n.A.Command(t.Context(), "setpriv", "--reuid", uid, "--clear-groups", "microsocks", "-i", "127.0.0.1", "-p", "1081")
	if err := upstream.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = upstream.Process.Kill()
		_ = upstream.Wait()
	})
	testnet.Eventually(t, 5*time.Second, "microsocks listens", func() bool {
		c, err := n.A.DialTimeout("tcp", "127.0.0.1:1081", time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	d := n.A.Start(t, program.Path(t), append(routes(), "--drain", "0s", "--exclude-uid", uid, "--via", "socks5://127.0.0.1:1081")...)
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		n.A.Through(t, tun, 5, 5, func() {
			exchange(t, dialTCP(t, n.A, dest(f, 1, tcp)), "through the upstream")
		})
	})
	d.Stop()
}
