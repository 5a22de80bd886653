// Package memory keeps the flows' buffers within a budget, and gives memory back
// to the system after flows have ended.
package memory

import (
	"math/bits"
	"sync"
	"sync/atomic"

	"netstackd/internal/relay"
)

const (
	// SmallestBuffer is the least, in bytes, that a flow can move with.
	SmallestBuffer = 32 << 10
	// flowBuffers is how many a flow has: two in the stack, of what the
	// application has sent and what it has yet to take, and as many in a socket.
	flowBuffers = 4
	// Directions that begin to wait at the same time take at most 1/waitShare of
	// the memory for waiting directions, all together. A direction that began to
	// wait earlier, among fewer, has a larger buffer and keeps it. Each doubling of
	// the number adds at most another 1/32.
	waitShare = 16
	// provenBuffer is for flows whose ends both make progress, while there are few.
	provenBuffer = 2 << 20
	// kernelBuffer is what the kernel gives a socket at first (tcp_rmem).
	kernelBuffer = 128 << 10
	// freshSend is what a flow that is not proven may queue for the application.
	// Many that are opened and not read would else each be filled at the speed of
	// the machine with as much as a fast reader needs, and slow down the others.
	freshSend = 256 << 10
	// ownTuning is when the kernel is left to size its sockets' buffers itself.
	ownTuning = 8 << 20
)

// Budget shares a number of bytes among the flows, by three numbers.
//
//   - All flows may fill the stack's two buffers to the last byte, whatever
//     their number.
//   - Directions that wait for their reader hold the stack's buffer and the
//     kernel's full, and may hold them for good. Each gets a share that leaves
//     room for those to come.
//   - Proven flows get more than that. All of them may stop at once, and each has
//     filled its buffers by the time that it counts as one that waits.
//
// Sizes halve when one of the numbers has doubled, and grow back when it is a
// quarter, so a number that varies around a step does not change the sizes. At
// SmallestBuffer it is the number of flows that is limited.
type Budget struct {
	budget         int64
	stack, sockets int64               // its two parts
	most           int                 // the most that a buffer in the stack may be
	apply          func(relay.Buffers) // must not block

	flows, waiting, proven step
	mu                     sync.Mutex // orders apply
	now                    relay.Buffers
}

// NewBudget divides the budget. Apply gets the sizes whenever they change, and must
// not block. A buffer in the stack is never larger than most. The sockets' part is
// at most a quarter of tcpMemory, which is what all TCP on this host may take before
// the kernel saves memory and slows every connection down; 0 = not known. The other
// ends of the flows may be on this host as well, and hold more.
func NewBudget(budget, tcpMemory int64, most int, apply func(relay.Buffers)) *Budget {
	sockets := budget / 2
	if tcpMemory > 0 {
		sockets = min(sockets, tcpMemory/4)
	}
	return &Budget{budget: budget, stack: budget - sockets, sockets: sockets, most: most, apply: apply}
}

// MaxFlows is how many flows a budget is enough for.
func MaxFlows(budget int64) int { return max(1, int(budget/(flowBuffers*SmallestBuffer))) }

// SetFlows follows the number of flows.
func (m *Budget) SetFlows(n int) {
	if m.flows.follow(n) {
		m.Update()
	}
}

// SetWaiting follows the number of directions that wait.
func (m *Budget) SetWaiting(n int) {
	if m.waiting.follow(n) {
		m.Update()
	}
}

// SetProven follows the number of proven flows.
func (m *Budget) SetProven(n int) {
	if m.proven.follow(n) {
		m.Update()
	}
}

// Update applies the sizes if they are others than before. It is called once
// when what they are applied to has started.
func (m *Budget) Update() {
	m.mu.Lock()
	defer m.mu.Unlock()
	flows, waiting, proven := m.flows.load(), m.waiting.load(), m.proven.load()
	stack := min(m.stack>>(flows+1), m.stack/waitShare>>waiting)
	b := relay.Buffers{
		Stack:  int(min(max(stack, SmallestBuffer), int64(m.most))),
		Socket: socketBuffer(min(m.sockets/waitShare>>waiting, m.budget/flowBuffers>>proven)),
		// A flow that waits for its turn fills its socket as well. Most are idle,
		// so that each may have what the kernel gives it at first.
		Fresh: socketBuffer(max(m.sockets>>flows, min(kernelBuffer, m.budget/flowBuffers>>flows))),
		// Where the kernel's limit for all sockets makes m.sockets small, proven
		// flows may go beyond it: they are slowed down by the kernel, not by us.
		Proven:    int(min(max(m.budget/2/waitShare>>proven, SmallestBuffer), provenBuffer, int64(m.most))),
		FreshSend: freshSend,
		MaxProven: int(min(m.stack, m.sockets) / 8 / provenBuffer),
	}
	if b != m.now {
		m.now = b
		m.apply(b)
	}
}

// socketBuffer is a share as relay.Buffers has it.
func socketBuffer(share int64) int {
	if share >= ownTuning {
		return 0
	}
	return int(max(share, SmallestBuffer))
}

// step follows a number in steps of powers of two.
type step struct{ n atomic.Int32 }

func (s *step) load() int { return int(s.n.Load()) }

// follow reports whether the number has come to another step.
func (s *step) follow(n int) bool {
	to := int32(bits.Len(uint(n)))
	for {
		at := s.n.Load()
		if to <= at && to > at-2 || to == at {
			return false
		}
		if s.n.CompareAndSwap(at, to) {
			return true
		}
	}
}
