package flow

import (
	"net/netip"
	"sync"
)

// sourceCount counts flows by source address. The zero value is empty.
type sourceCount struct {
	mu sync.Mutex
	n  map[netip.Addr]int
}

// take counts one more from a, unless there are max already.
func (c *sourceCount) take(a netip.Addr, max int) bool {
	a = a.Unmap()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n[a] >= max {
		return false
	}
	if c.n == nil {
		c.n = make(map[netip.Addr]int)
	}
	c.n[a]++
	return true
}

// give takes one from a off the count.
func (c *sourceCount) give(a netip.Addr) {
	a = a.Unmap()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n[a]--; c.n[a] == 0 {
		delete(c.n, a)
	}
}
