package memory

import (
	"sync"
	"time"
)

const (
	// releaseDelay is how long after many flows have ended their memory is given
	// back. Flows that end together cost one collection.
	releaseDelay = 20 * time.Second
	// releaseFlows is how many flows have to end before a collection is worth it.
	releaseFlows = 500
)

// Releaser gives memory back to the system after flows have ended. Go's collector
// runs when memory is allocated, and an idle daemon allocates none. The one timer
// is set by flows that end.
type Releaser struct {
	// Free gives the memory back.
	Free func()

	mu    sync.Mutex
	peak  int // the most flows since memory was last given back
	last  int // how many there are
	timer *time.Timer
}

// SetFlows follows the number of flows.
func (r *Releaser) SetFlows(flows int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.peak, r.last = max(r.peak, flows), flows
	if r.timer == nil && r.peak-flows >= max(releaseFlows, r.peak/4) {
		r.timer = time.AfterFunc(releaseDelay, r.run)
	}
}

func (r *Releaser) run() {
	r.mu.Lock()
	r.timer, r.peak = nil, r.last
	r.mu.Unlock()
	r.Free()
}

// Stop ends the timer.
func (r *Releaser) Stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.timer != nil {
		r.timer.Stop()
	}
}
