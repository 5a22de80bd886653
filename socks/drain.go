package socks

import (
	"context"
	"time"
)

// drain holds a context that ends some time after its parent: for what may continue
// when the context of Serve has ended.
type drain struct {
	ctx    context.Context
	cancel context.CancelFunc
	unhook func() bool
}

func newDrain(parent context.Context, grace time.Duration) *drain {
	d := &drain{}
	d.ctx, d.cancel = context.WithCancel(context.WithoutCancel(parent))
	d.unhook = context.AfterFunc(parent, func() {
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-timer.C:
			d.cancel()
		case <-d.ctx.Done():
		}
	})
	return d
}

// stop releases what d holds.
func (d *drain) stop() {
	d.unhook()
	d.cancel()
}
