package daemon

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"netstackd/internal/config"
)

// An address family of which --exclude leaves nothing is named; one that no --route
// is for is not, nor one of which something is left.
func TestWarnUncaptured(t *testing.T) {
	for _, tt := range []struct {
		routes, excludes []string // no routes = default
		want             string   // empty = no warning
	}{
		{nil, nil, ""},
		{nil, []string{"0.0.0.0/0"}, "nothing of IPv4"},
		{nil, []string{"::/1", "8000::/1"}, "nothing of IPv6"},
		{nil, []string{"0.0.0.0/1"}, ""},
		{[]string{"192.0.2.0/24"}, []string{"192.0.0.0/16"}, ""}, // the longest prefix wins
		{[]string{"192.0.2.0/24", "2001:db8::/32"}, []string{"192.0.2.0/24"}, "nothing of IPv4"},
	} {
		cfg := config.Default()
		for _, p := range tt.routes {
			cfg.Route = append(cfg.Route, netip.MustParsePrefix(p))
		}
		cfg.RouteDefault = tt.routes == nil
		for _, p := range tt.excludes {
			cfg.Exclude = append(cfg.Exclude, netip.MustParsePrefix(p))
		}
		var out bytes.Buffer
		warnUncaptured(cfg, slog.New(slog.NewTextHandler(&out, nil)))
		if got := out.String(); (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) || strings.Count(got, "\n") > 1 {
			t.Errorf("--route %v --exclude %v: %q, want %q", tt.routes, tt.excludes, got, tt.want)
		}
	}
}
