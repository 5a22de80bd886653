//go:build linux

package netcfg_test

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"netstackd/internal/netcfg"
	"netstackd/internal/testnet"
)

// Without IPv6 on the host the TUN goes without; with IPv6 on any interface it
// must have it, or that would leak.
func TestIntegrationIPv6Off(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	setSysctl(t, "ipv6/conf/default/disable_ipv6", "1") // for the TUN, not for eth0
	tun := openTUN(t, tunName)
	before := hostState(t)
	cfg := testConfig()
	cfg.Routes = netcfg.DefaultRoutes()
	h := open(t, cfg)
	if v4, v6 := h.Families(); !v4 || !v6 {
		t.Errorf("families %v, %v", v4, v6)
	}
	send(t, farAddr6, 5000, "captured", nil)
	tun.expect(t, farAddr6, 5000)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	sameState(t, before, hostState(t))
	if on := strings.TrimSpace(run(t, "cat /proc/sys/net/ipv6/conf/"+tunName+"/disable_ipv6")); on != "1" {
		t.Errorf("the TUN's disable_ipv6 is %s", on)
	}

	setSysctl(t, "ipv6/conf/all/disable_ipv6", "1")
	before = hostState(t)
	h = open(t, cfg)
	if v4, v6 := h.Families(); !v4 || v6 {
		t.Errorf("families %v, %v", v4, v6)
	}
	send(t, farAddr4, 5001, "captured", nil)
	tun.expect(t, farAddr4, 5001)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	sameState(t, before, hostState(t))
}

// counter counts the records that say that a rule or route was added.
type counter struct {
	slog.Handler
	added atomic.Int64
}

func (c *counter) Enabled(context.Context, slog.Level) bool { return true }

func (c *counter) Handle(_ context.Context, r slog.Record) error {
	if strings.HasSuffix(r.Message, "added") {
		c.added.Add(1)
	}
	return nil
}

// A change that has nothing to do with us makes us change nothing.
func TestIntegrationWatchIdle(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	openTUN(t, tunName)
	c := &counter{Handler: slog.DiscardHandler}
	cfg := testConfig()
	cfg.Routes = append(netcfg.DefaultRoutes(), prefixes("10.0.0.2/32")...)
	cfg.Excludes = prefixes("192.0.2.0/24", "2001:db8:1::/48")
	cfg.IncludeUIDs = []netcfg.UIDRange{{0, 5}, {7, 9}}
	cfg.ExcludeUIDs = []netcfg.UIDRange{{6, 6}}
	cfg.Gateway = true
	cfg.Log = slog.New(c)
	h := open(t, cfg)
	before := c.added.Load()
	if before == 0 {
		t.Fatal("nothing counted")
	}
	watch(t, h)
	for _, a := range []string{"10.0.0.50", "10.0.0.51", "10.0.0.52"} {
		run(t, "ip addr add "+a+"/24 dev eth0")
		eventually(t, a+" is local", func() bool { return h.IsLocal(netip.MustParseAddr(a)) })
	}
	if err := h.Close(); err != nil { // waits for what is being done
		t.Fatal(err)
	}
	if n := c.added.Load() - before; n != 0 {
		t.Errorf("%d rules and routes were added again", n)
	}
}
