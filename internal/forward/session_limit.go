package forward

import (
	"sync"
	"time"
)

// The kernel's own limits for ICMP errors (net.ipv4.icmp_msgs_per_sec and
// icmp_msgs_burst) are of this size.
const (
	errorsPerSecond = 1000
	errorsBurst     = 50
)

// rateLimit is a token bucket.
type rateLimit struct {
	mu     sync.Mutex
	tokens float64
	last   time.Duration
	full   bool // it has been filled for the first time
}

func (r *rateLimit) allow(now time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.full {
		r.full, r.tokens, r.last = true, errorsBurst, now
	}
	r.tokens = min(errorsBurst, r.tokens+(now-r.last).Seconds()*errorsPerSecond)
	r.last = now
	if r.tokens < 1 {
		return false
	}
	r.tokens--
	return true
}
