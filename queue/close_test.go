package queue_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"netstackd/queue"
)

func TestCloseDrains(t *testing.T) {
	q := queue.New[int](4)
	fill(t, q, 0, 3)
	q.Close()
	q.Close()
	if q.TryPut(9) {
		t.Error("TryPut on a closed queue = true, want false")
	}
	if err := q.Put(context.Background(), 9); !errors.Is(err, queue.ErrClosed) {
		t.Errorf("Put on a closed queue = %v, want ErrClosed", err)
	}
	dst := make([]int, 2)
	for _, want := range []int{2, 1} {
		if n, err := q.Get(context.Background(), dst); n != want || err != nil {
			t.Errorf("Get on a closed queue = %d, %v; want %d, nil", n, err, want)
		}
	}
	if n, err := q.Get(context.Background(), dst); n != 0 || !errors.Is(err, queue.ErrClosed) {
		t.Errorf("Get on a closed and empty queue = %d, %v; want 0, ErrClosed", n, err)
	}
	if n := q.TryGet(dst); n != 0 {
		t.Errorf("TryGet on a closed and empty queue = %d, want 0", n)
	}
}

// TestCloseWakesEveryone closes while many wait, more than tokens are sent ahead.
func TestCloseWakesEveryone(t *testing.T) {
	const waiters = 200
	dst := func() []int { return make([]int, 1) }
	tests := map[string]struct {
		full bool
		wait func(context.Context, *queue.Queue[int]) error
	}{
		"Put": {true, func(ctx context.Context, q *queue.Queue[int]) error { return q.Put(ctx, 1) }},
		"Get": {false, func(ctx context.Context, q *queue.Queue[int]) error { _, err := q.Get(ctx, dst()); return err }},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := queue.New[int](1)
				if test.full {
					fill(t, q, 0, 1)
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				failed := make(chan error, waiters)
				for i := range waiters {
					ctx := ctx
					if i%2 == 0 {
						ctx = context.Background()
					}
					go func() { failed <- test.wait(ctx, q) }()
				}
				synctest.Wait()
				if n := len(failed); n != 0 {
					t.Fatalf("%d of %d did not wait", n, waiters)
				}
				q.Close()
				for range waiters {
					if err := <-failed; !errors.Is(err, queue.ErrClosed) {
						t.Fatalf("a waiting %s returned %v after Close, want ErrClosed", name, err)
					}
				}
			})
		})
	}
}

// TestCloseAfterFullPut checks that a Put that waits for room and loses it to
// Close doesn't add its value, and that the others stay.
func TestCloseAfterFullPut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := queue.New[int](1)
		fill(t, q, 7, 8)
		failed := make(chan error, 1)
		go func() { failed <- q.Put(context.Background(), 8) }()
		synctest.Wait()
		q.Close()
		if err := <-failed; !errors.Is(err, queue.ErrClosed) {
			t.Errorf("Put = %v, want ErrClosed", err)
		}
		dst := make([]int, 2)
		if n, err := q.Get(context.Background(), dst); n != 1 || err != nil || dst[0] != 7 {
			t.Errorf("Get = %d (%d), %v; want 1 (7), nil", n, dst[0], err)
		}
	})
}
