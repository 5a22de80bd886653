package relay

import (
	"math"
	"sync/atomic"
)

// pipeSize is asked for; without privilege the kernel may grant less.
const pipeSize = 1 << 20

// Buffers are the most that a flow's ends queue, in bytes. A flow is proven when
// it has moved more than all buffers on its way take in: both its ends make
// progress. A reader that stands still from the start never gets there.
type Buffers struct {
	// Stack is for each of the two buffers of an end in the stack.
	Stack int
	// Socket is for each of the two of a kernel's socket, as the kernel counts
	// them; 0 = the kernel's own limits.
	Socket int
	// Fresh is Socket for flows that are not proven, where it is less.
	Fresh int
	// Proven is for all buffers of proven flows, where it is more. Of these,
	// MaxProven may wait with that much; 0 = none.
	Proven, MaxProven int
	// FreshSend is Stack for flows that are not proven, where it is less, in the
	// buffer of what the application has yet to take; 0 = Stack.
	FreshSend int

	send int // Stack in that buffer, where it is less; 0 = Stack
}

// provenMove is what a flow has moved, besides what its buffers hold, when it
// is proven: more than applications take in without reading.
const provenMove = 1 << 20

// provenAfter is how many bytes a flow has moved when it is proven.
func (b *Buffers) provenAfter() int64 {
	return provenMove + int64(b.Stack) + int64(max(b.Socket, b.Fresh))
}

// fresh is b for flows that are not proven.
func (b Buffers) fresh() Buffers {
	b.send = b.FreshSend
	if b.Fresh > 0 && (b.Socket == 0 || b.Fresh < b.Socket) {
		b.Socket = b.Fresh
	}
	return b
}

// proven is b for those that are.
func (b Buffers) proven() Buffers {
	b.Stack = max(b.Stack, b.Proven)
	if b.Socket > 0 {
		b.Socket = max(b.Socket, b.Proven)
	}
	return b
}

// memory is what the relay knows of its flows' memory. A direction that waits for
// its reader keeps its destination's send buffer and its source's receive buffer
// full. Any other direction holds what has arrived since its last run. The owner
// of the relay sets the sizes of the buffers. A pair adopts them when its task runs
// next: a pair that does not run does not grow.
type memory struct {
	buffers atomic.Pointer[Buffers]
	waiting counter      // directions
	proven  counter      // flows
	places  atomic.Int64 // of those of MaxProven that are taken
}

func (m *memory) init(cfg Config) {
	m.buffers.Store(&Buffers{Stack: math.MaxInt32})
	m.waiting.changed, m.proven.changed = cfg.Waiting, cfg.Proven
}

// SetBuffers limits the buffers of flows from now on.
func (m *memory) SetBuffers(b Buffers) { m.buffers.Store(&b) }

// takePlace takes one of MaxProven places.
func (m *memory) takePlace(most int) bool {
	if m.places.Add(1) <= int64(most) {
		return true
	}
	m.places.Add(-1)
	return false
}

// pipe is the most that one pipe holds.
func (m *memory) pipe() int {
	if n := m.buffers.Load().Socket; n > 0 && n < pipeSize {
		return n
	}
	return pipeSize
}

// counter is a number whose changes are reported.
type counter struct {
	n       atomic.Int64
	changed func(int) // nil = not reported
}

// add adds n, which may be negative.
func (c *counter) add(n int64) {
	now := c.n.Add(n)
	if c.changed != nil {
		c.changed(int(now))
	}
}
