package tun

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// handle is an fd shared by concurrent users. Close waits for the last of them, so
// that nobody is left with a number that the next open may get.
type handle struct {
	fd    int
	users atomic.Int64 // those inside; closing is added when closed
	once  sync.Once
	idle  chan struct{} // closed when closed and nobody is inside
}

// closing makes the number of users negative, however many there are.
const closing = -1 << 62

func newHandle(fd int) *handle { return &handle{fd: fd, idle: make(chan struct{})} }

// enter makes fd usable until leave. It reports false if the handle is closed:
// don't leave then.
func (h *handle) enter() bool {
	if h.users.Add(1) < 0 {
		h.leave()
		return false
	}
	return true
}

func (h *handle) leave() {
	if h.users.Add(-1) == closing {
		h.once.Do(func() { close(h.idle) })
	}
}

// close keeps new users out, waits until the others have left and closes fd.
// It is called once; whoever calls it sees to it that they leave.
func (h *handle) close() error {
	h.users.Add(1 + closing)
	h.leave()
	<-h.idle
	return unix.Close(h.fd)
}
