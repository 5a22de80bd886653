package hostnet

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"
)

const (
	// maxEvictions bounds how many flows one dial evicts. More than one is needed
	// when another socket takes the first descriptor that comes free.
	maxEvictions = 4
	// evictWait is how long an evicted flow may take to close its descriptor.
	evictWait = 2 * time.Millisecond
)

// dialEvicting dials, and where no descriptor is free evicts a flow and dials
// again. A nil evict evicts nothing.
func dialEvicting(ctx context.Context, evict func() bool, dial func() (net.Conn, error)) (net.Conn, error) {
	for range maxEvictions {
		c, err := dial()
		if !errors.Is(err, syscall.EMFILE) && !errors.Is(err, syscall.ENFILE) || evict == nil || !evict() {
			return c, err
		}
		select { // the evicted flow's owner closes the descriptor
		case <-ctx.Done():
		case <-time.After(evictWait):
		}
	}
	return dial()
}
