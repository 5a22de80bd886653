package queue_test

import (
	"context"
	"runtime"
	"slices"
	"testing"
	"weak"

	"netstackd/queue"
)

// fill puts from, from+1, ... to-1 and fails if there is no room.
func fill(t *testing.T, q *queue.Queue[int], from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if !q.TryPut(i) {
			t.Fatalf("TryPut(%d) with %d of %d = false, want true", i, q.Len(), q.Cap())
		}
	}
}

func TestGetTakesAllThatFits(t *testing.T) {
	q := queue.New[int](8)
	fill(t, q, 0, 8)
	dst := make([]int, 5)
	for _, want := range [][]int{{0, 1, 2, 3, 4}, {5, 6, 7}} {
		n, err := q.Get(context.Background(), dst)
		if err != nil || !slices.Equal(dst[:n], want) {
			t.Fatalf("Get = %v, %v; want %v, nil", dst[:n], err, want)
		}
	}
}

func TestWrapAround(t *testing.T) {
	for capacity := 1; capacity <= 5; capacity++ {
		q := queue.New[int](capacity)
		dst := make([]int, capacity)
		next := 0
		for round := range 20 {
			n := 1 + round%capacity
			fill(t, q, next, next+n)
			if got := q.TryGet(dst); got != n {
				t.Fatalf("capacity %d: TryGet = %d, want %d", capacity, got, n)
			}
			for i, v := range dst[:n] {
				if v != next+i {
					t.Fatalf("capacity %d: value %d is %d, want %d", capacity, i, v, next+i)
				}
			}
			next += n
		}
	}
}

func TestBounds(t *testing.T) {
	q := queue.New[int](3)
	fill(t, q, 0, 3)
	if q.TryPut(3) {
		t.Error("TryPut on a full queue = true, want false")
	}
	if q.Len() != 3 || q.Cap() != 3 {
		t.Errorf("Len, Cap = %d, %d; want 3, 3", q.Len(), q.Cap())
	}
	dst := make([]int, 4)
	if n := q.TryGet(dst); n != 3 {
		t.Errorf("TryGet = %d, want 3", n)
	}
	if n := q.TryGet(dst); n != 0 {
		t.Errorf("TryGet on an empty queue = %d, want 0", n)
	}
	if q.Len() != 0 {
		t.Errorf("Len of an empty queue = %d, want 0", q.Len())
	}
}

func TestEmptyDestination(t *testing.T) {
	q := queue.New[int](1)
	if n, err := q.Get(context.Background(), nil); n != 0 || err != nil {
		t.Errorf("Get(nil) on an empty queue = %d, %v; want 0, nil", n, err)
	}
	fill(t, q, 0, 1)
	if n := q.TryGet(nil); n != 0 || q.Len() != 1 {
		t.Errorf("TryGet(nil) = %d and leaves %d, want 0 and 1", n, q.Len())
	}
}

func TestNewRefusesNoRoom(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("New(0) did not panic")
		}
	}()
	queue.New[int](0)
}

// TestKeepsNothing checks that a value is garbage once it was taken.
func TestKeepsNothing(t *testing.T) {
	q := queue.New[*[64]byte](4)
	var watch []weak.Pointer[[64]byte]
	for range 4 {
		v := new([64]byte)
		watch = append(watch, weak.Make(v))
		q.TryPut(v)
	}
	if n := q.TryGet(make([]*[64]byte, 4)); n != 4 {
		t.Fatalf("TryGet = %d, want 4", n)
	}
	runtime.GC()
	for i, w := range watch {
		if w.Value() != nil {
			t.Errorf("value %d is still reachable after it was taken", i)
		}
	}
	runtime.KeepAlive(q)
}

func TestStats(t *testing.T) {
	q := queue.New[int](2)
	fill(t, q, 0, 2)
	q.TryPut(2)
	dst := make([]int, 2)
	q.TryGet(dst)
	q.TryGet(dst)
	fill(t, q, 0, 1)
	want := queue.Stats{Len: 1, Cap: 2, Puts: 3, Refused: 1, Gets: 1}
	if got := q.Stats(); got != want {
		t.Errorf("Stats = %+v, want %+v", got, want)
	}
}
