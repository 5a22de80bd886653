package daemon

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"netstackd/internal/flow"
)

// maxSpared bounds how many sessions one dial may cost. More than one is needed
// when the first descriptor that comes free goes to somebody else.
const maxSpared = 4

// spareWait is how long what was spared may take to give its descriptor back.
const spareWait = 2 * time.Millisecond

// sparing is a dialer that, out of descriptors, ends what can be spared for the
// connection that wants one. Sockets for datagrams are not its affair: forward
// ends a session for each by itself.
type sparing struct {
	dialer
	spare func() bool
}

// DialContext implements dialer.
func (d *sparing) DialContext(ctx context.Context, m *flow.Meta, network, address string) (net.Conn, error) {
	for range maxSpared {
		c, err := d.dialer.DialContext(ctx, m, network, address)
		if !errors.Is(err, syscall.EMFILE) && !errors.Is(err, syscall.ENFILE) || !d.spare() {
			return c, err
		}
		select { // the owner of what was spared closes it
		case <-ctx.Done():
		case <-time.After(spareWait):
		}
	}
	return d.dialer.DialContext(ctx, m, network, address)
}
