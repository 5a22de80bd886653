package netstack

import (
	"sync"
	"time"
)

// deadlines are a connection's two, and its methods of net.Conn and
// net.PacketConn that set them.
type deadlines struct{ read, write deadline }

// SetDeadline implements net.Conn and net.PacketConn.
func (d *deadlines) SetDeadline(t time.Time) error {
	d.read.set(t)
	d.write.set(t)
	return nil
}

// SetReadDeadline implements net.Conn and net.PacketConn.
func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.read.set(t)
	return nil
}

// SetWriteDeadline implements net.Conn and net.PacketConn.
func (d *deadlines) SetWriteDeadline(t time.Time) error {
	d.write.set(t)
	return nil
}

// deadline is a point in time that can be moved while goroutines wait for it.
// The zero value never passes and holds nothing.
type deadline struct {
	mu     sync.Mutex
	timer  *time.Timer
	passed chan struct{} // closed when the deadline passes; nil until asked for
}

// set moves the deadline; the zero time is never.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.passed == nil {
		if t.IsZero() {
			return
		}
		d.passed = make(chan struct{})
	}
	select {
	case <-d.passed: // the old one has passed: waiters of the new one need another channel
		d.passed = make(chan struct{})
	default:
	}
	if t.IsZero() {
		return
	}
	ch := d.passed
	if wait := time.Until(t); wait > 0 {
		var timer *time.Timer
		timer = time.AfterFunc(wait, func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.timer == timer { // not moved in the meantime
				close(ch)
				d.timer = nil
			}
		})
		d.timer = timer
		return
	}
	close(ch)
}

// wait returns a channel that is closed when the deadline passes. It stays the
// same while the deadline moves, until it has passed.
func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.passed == nil {
		d.passed = make(chan struct{})
	}
	return d.passed
}
