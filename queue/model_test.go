package queue_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"

	"netstackd/queue"
)

// model is what a queue must behave like, as a plain slice.
type model struct {
	values   []int
	capacity int
	closed   bool
	next     int
}

// runModel runs one operation for each byte of ops on a queue and on the model
// and compares everything that can be seen. A canceled context makes the
// blocking calls return where they would wait.
func runModel(t *testing.T, capacity int, ops []byte) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	q := queue.New[int](capacity)
	m := model{capacity: capacity}
	for i, op := range ops {
		size := int(op >> 3)
		switch op & 7 {
		case 0, 1:
			m.next++
			if got, want := q.TryPut(m.next), m.put(); got != want {
				t.Fatalf("op %d: TryPut = %v, want %v", i, got, want)
			}
		case 2, 3:
			m.next++
			closed := m.closed
			want := m.put()
			err := q.Put(ctx, m.next)
			if (err == nil) != want || closed && err != queue.ErrClosed {
				t.Fatalf("op %d: Put = %v, want success %v (closed %v)", i, err, want, closed)
			}
		case 4, 5:
			dst := make([]int, size)
			compare(t, i, dst[:q.TryGet(dst)], m.get(size))
		case 6:
			dst := make([]int, 1+size)
			n, err := q.Get(ctx, dst)
			want := m.get(1 + size)
			compare(t, i, dst[:n], want)
			if (err == nil) != (len(want) > 0) || len(want) == 0 && m.closed && err != queue.ErrClosed {
				t.Fatalf("op %d: Get = %v with %d values (closed %v)", i, err, len(want), m.closed)
			}
		case 7:
			if size == 31 { // rarely, or nothing much happens
				q.Close()
				m.closed = true
			}
		}
		if q.Len() != len(m.values) {
			t.Fatalf("op %d: Len = %d, want %d", i, q.Len(), len(m.values))
		}
	}
}

func (m *model) put() bool {
	if m.closed || len(m.values) == m.capacity {
		return false
	}
	m.values = append(m.values, m.next)
	return true
}

func (m *model) get(limit int) []int {
	n := min(limit, len(m.values))
	got := m.values[:n]
	m.values = m.values[n:]
	return got
}

func compare(t *testing.T, op int, got, want []int) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("op %d: got %v, want %v", op, got, want)
	}
}

func TestModel(t *testing.T) {
	const seed = 20
	rnd := rand.New(rand.NewPCG(seed, seed))
	for range 300 {
		ops := make([]byte, 400)
		for i := range ops {
			ops[i] = byte(rnd.Uint32())
		}
		runModel(t, 1+rnd.IntN(40), ops)
	}
}

func FuzzQueue(f *testing.F) {
	f.Add(uint8(1), []byte{0, 0, 12, 12})
	f.Add(uint8(3), []byte{2, 2, 2, 2, 255, 30, 30, 30})
	f.Fuzz(func(t *testing.T, capacity uint8, ops []byte) {
		runModel(t, 1+int(capacity), ops)
	})
}
