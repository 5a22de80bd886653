package daemon

import (
	"math/bits"
	"sync"
)

// smallestBuffer is the least that a flow can move with. Its buffers are two in
// the stack: what the application has sent and what it has yet to take. Those
// in the kernel are the kernel's to limit.
const smallestBuffer = 64 << 10

// memory shares --max-memory among the flows: each may fill its two buffers,
// so their size is the budget divided by how many flows there are. It halves
// whenever the number of flows has doubled. At smallestBuffer it is the number
// of flows that is limited.
type memory struct {
	budget int64
	most   int             // the most that a buffer may be
	apply  func(bytes int) // sets the size of one buffer

	mu   sync.Mutex
	step int // buffers are sized for up to 1<<step flows
	size int
}

// maxFlows is how many flows the budget is enough for.
func (m *memory) maxFlows() int { return max(1, int(m.budget/(2*smallestBuffer))) }

// changed follows the number of flows. Growing back waits until there are only
// a quarter as many, so that a number that hovers about a step costs nothing.
func (m *memory) changed(flows int) {
	step := bits.Len(uint(flows))
	m.mu.Lock()
	defer m.mu.Unlock()
	if step <= m.step && step > m.step-2 {
		return
	}
	m.step = step
	size := int(min(max(m.budget>>(step+1), smallestBuffer), int64(m.most)))
	if size != m.size {
		m.size = size
		m.apply(size)
	}
}
