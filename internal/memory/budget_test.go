package memory

import (
	"testing"

	"netstackd/internal/relay"
)

func TestMemoryKeepsTheBudget(t *testing.T) {
	const budget, most = 64 << 20, 8 << 20
	var b relay.Buffers
	calls := 0
	m := NewBudget(budget, 0, most, func(to relay.Buffers) { b = to; calls++ })
	m.Update()
	if b.Stack != budget/2/waitShare || b.Socket != budget/2/waitShare {
		t.Errorf("at first %+v", b)
	}
	for n := 1; n <= MaxFlows(budget); n++ {
		m.SetFlows(n)
		if used := n * 2 * b.Stack; used > budget/2 {
			t.Fatalf("%d flows of two buffers of %d bytes are %d, over half of %d", n, b.Stack, used, budget)
		}
	}
	if b.Stack != SmallestBuffer {
		t.Errorf("at the limit of flows buffers are %d bytes, want %d", b.Stack, SmallestBuffer)
	}
	for range 1000 { // hovering about a step
		m.SetFlows(255)
		m.SetFlows(256)
	}
	if calls > 20 {
		t.Errorf("sizes were set %d times", calls)
	}
	m.SetFlows(0)
	if b.Stack != budget/2/waitShare {
		t.Errorf("without flows buffers are %d bytes", b.Stack)
	}
}

// Each direction that begins to wait keeps what its buffers may hold by then.
// All of them together keep to the budget.
func TestMemoryOfThoseThatWait(t *testing.T) {
	const budget, most = 64 << 20, 8 << 20
	var b relay.Buffers
	m := NewBudget(budget, 0, most, func(to relay.Buffers) { b = to })
	m.Update()
	held := 0
	for n := 1; n <= MaxFlows(budget); n++ {
		m.SetFlows(n)
		held += b.Stack + b.Socket // has grown to it before it counts
		m.SetWaiting(n)
	}
	t.Logf("%d MiB held of %d", held>>20, budget>>20)
	if held > budget {
		t.Errorf("%d bytes held", held)
	}
	m.SetWaiting(0)
	m.SetFlows(0)
	if b.Socket != budget/2/waitShare {
		t.Errorf("when none waits, sockets may hold %d", b.Socket)
	}
}

// Proven flows that all stop reading at once hold no more than the budget: each
// has filled its four buffers by the time that it counts as one that waits.
func TestMemoryOfProvenFlows(t *testing.T) {
	const budget, most = 64 << 20, 8 << 20
	var b relay.Buffers
	m := NewBudget(budget, 0, most, func(to relay.Buffers) { b = to })
	m.Update()
	for n := 1; n <= MaxFlows(budget); n++ {
		m.SetFlows(n)
		m.SetProven(n)
		if held := n * 2 * (max(b.Stack, b.Proven) + max(b.Socket, b.Proven)); held > budget {
			t.Fatalf("%d flows may hold %d bytes, over %d", n, held, budget)
		}
	}
}

// Flows that are proven and stop one after the other hold no more than the
// budget, although each may take a share for as many as there were before it.
func TestMemoryOfProvenFlowsInTurn(t *testing.T) {
	const budget, most = 64 << 20, 8 << 20
	var b relay.Buffers
	m := NewBudget(budget, 0, most, func(to relay.Buffers) { b = to })
	m.Update()
	held := 0
	for n := 1; n <= MaxFlows(budget); n++ {
		m.SetFlows(n)
		m.SetProven(n)
		held += max(b.Stack, b.Proven) + max(b.Socket, b.Proven)
		m.SetWaiting(n)
	}
	t.Logf("%d MiB held of %d", held>>20, budget>>20)
	if held > budget {
		t.Errorf("%d bytes held", held)
	}
}

// A few proven flows have large buffers beside many that stand still.
func TestMemoryForAFewProvenFlows(t *testing.T) {
	const most = 8 << 20
	var b relay.Buffers
	m := NewBudget(1<<30, 128<<20, most, func(to relay.Buffers) { b = to })
	m.Update()
	m.SetFlows(2000)
	m.SetWaiting(2000)
	m.SetProven(8)
	if b.Proven != provenBuffer {
		t.Errorf("%d bytes for each of 8 proven flows", b.Proven)
	}
}

// With memory to spare the kernel sizes its sockets' buffers itself, and the
// stack's are as large as they get.
func TestMemoryIsPlentiful(t *testing.T) {
	const most = 8 << 20
	var b relay.Buffers
	m := NewBudget(6<<30, 1<<30, most, func(to relay.Buffers) { b = to })
	m.Update()
	m.SetFlows(30)
	m.SetWaiting(1)
	if b.Stack != most || b.Socket != 0 || b.Fresh != 0 {
		t.Errorf("%+v", b)
	}
	if m.SetWaiting(2000); b.Socket < SmallestBuffer || b.Socket > 1<<28/2000 {
		t.Errorf("2000 wait: %+v", b)
	}
}
