package daemon

import (
	"sync"
	"time"
)

const (
	// reclaimAfter is how long after many flows have ended their memory is given
	// back: late enough that those which end together do so at one cost.
	reclaimAfter = 20 * time.Second
	// reclaimFlows is how many have to end for it to be worth a collection.
	reclaimFlows = 500
)

// reclaim gives memory back to the system after flows have ended. Go would in
// the end, but its collector runs when memory is taken, and an idle daemon
// takes none. Nothing ticks: the one timer is set by flows that end.
type reclaim struct {
	free func()

	mu    sync.Mutex
	peak  int // the most flows since memory was last given back
	last  int // how many there are
	timer *time.Timer
}

// changed follows the number of flows.
func (r *reclaim) changed(flows int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.peak, r.last = max(r.peak, flows), flows
	if r.timer == nil && r.peak-flows >= max(reclaimFlows, r.peak/4) {
		r.timer = time.AfterFunc(reclaimAfter, r.run)
	}
}

func (r *reclaim) run() {
	r.mu.Lock()
	r.timer, r.peak = nil, r.last
	r.mu.Unlock()
	r.free()
}

// stop ends the timer.
func (r *reclaim) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.timer != nil {
		r.timer.Stop()
	}
}
