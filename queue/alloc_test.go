package queue_test

import (
	"context"
	"sync"
	"testing"

	"netstackd/queue"
)

func TestNoAllocations(t *testing.T) {
	q := queue.New[[4]uint64](8)
	cancelable, cancel := context.WithCancel(context.Background())
	defer cancel()
	for name, ctx := range map[string]context.Context{"background": context.Background(), "cancelable": cancelable} {
		dst := make([][4]uint64, 8)
		if n := testing.AllocsPerRun(1000, func() {
			_ = q.Put(ctx, [4]uint64{})
			q.TryPut([4]uint64{})
			_, _ = q.Get(ctx, dst)
			q.TryGet(dst)
		}); n != 0 {
			t.Errorf("%s context: %v allocations a round without waiting, want 0", name, n)
		}
	}
}

// TestNoAllocationsWaiting has both ends wait all the time.
func TestNoAllocationsWaiting(t *testing.T) {
	cancelable, cancel := context.WithCancel(context.Background())
	defer cancel()
	for name, ctx := range map[string]context.Context{"background": context.Background(), "cancelable": cancelable} {
		there, back := queue.New[int](1), queue.New[int](1)
		var wg sync.WaitGroup
		wg.Go(func() {
			dst := make([]int, 1)
			for {
				if _, err := there.Get(ctx, dst); err != nil {
					return
				}
				_ = back.Put(ctx, dst[0])
			}
		})
		dst := make([]int, 1)
		if n := testing.AllocsPerRun(1000, func() {
			_ = there.Put(ctx, 1)
			_, _ = back.Get(ctx, dst)
		}); n != 0 {
			t.Errorf("%s context: %v allocations a round, want 0", name, n)
		}
		there.Close()
		wg.Wait()
	}
}
