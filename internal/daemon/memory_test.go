package daemon

import "testing"

func TestMemoryKeepsTheBudget(t *testing.T) {
	var size, calls int
	const most = 8 << 20
	m := &memory{budget: 64 << 20, most: most, apply: func(n int) { size = n; calls++ }}
	for n := 1; n <= m.maxFlows(); n++ {
		m.changed(n)
		if used := int64(n) * 2 * int64(size); used > m.budget {
			t.Fatalf("%d flows of two buffers of %d bytes are %d, over %d", n, size, used, m.budget)
		}
	}
	if size != smallestBuffer {
		t.Errorf("at the limit buffers are %d bytes, want %d", size, smallestBuffer)
	}
	for range 1000 { // hovering about a step
		m.changed(255)
		m.changed(256)
	}
	if calls > 20 {
		t.Errorf("sizes were set %d times", calls)
	}
	m.changed(0)
	if size != most {
		t.Errorf("without flows buffers are %d bytes, want %d", size, most)
	}
}
