// Package daemon composes netstackd: device, link, stack, forwarders, SOCKS
// and the host's routes.
package daemon

import (
	"context"
	"errors"
)

// Run carries traffic until ctx ends or something fails.
func Run(ctx context.Context, cfg Config) error {
	return errors.New("run: not available in this build")
}
