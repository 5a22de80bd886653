package queue_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"netstackd/queue"
)

func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := queue.New[int](1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if n, err := q.Get(ctx, make([]int, 1)); n != 0 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Get = %d, %v; want 0, DeadlineExceeded", n, err)
		}
		if d := time.Since(start); d != time.Second {
			t.Errorf("Get waited %v, want 1s", d)
		}
		fill(t, q, 0, 1)
		if err := q.Put(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Put = %v, want DeadlineExceeded", err)
		}
		if q.Len() != 1 {
			t.Errorf("Len after a Put that failed = %d, want 1", q.Len())
		}
	})
}

// TestContextOnlyWhenWaiting checks that a call that needn't wait succeeds
// whatever its context says.
func TestContextOnlyWhenWaiting(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	q := queue.New[int](1)
	if err := q.Put(ctx, 1); err != nil {
		t.Errorf("Put with room = %v, want nil", err)
	}
	if err := q.Put(ctx, 2); !errors.Is(err, context.Canceled) {
		t.Errorf("Put without room = %v, want Canceled", err)
	}
	dst := make([]int, 1)
	if n, err := q.Get(ctx, dst); n != 1 || err != nil {
		t.Errorf("Get with a value = %d, %v; want 1, nil", n, err)
	}
	if _, err := q.Get(ctx, dst); !errors.Is(err, context.Canceled) {
		t.Errorf("Get without a value = %v, want Canceled", err)
	}
}

// TestCancelLeavesTheOthers cancels the first of two waiting readers: the
// value that comes then is the second one's.
func TestCancelLeavesTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := queue.New[int](1)
		ctx, cancel := context.WithCancel(t.Context())
		first, second := make(chan error, 1), make(chan error, 1)
		get := func(ctx context.Context, done chan error) {
			_, err := q.Get(ctx, make([]int, 1))
			done <- err
		}
		go get(ctx, first)
		synctest.Wait()
		go get(t.Context(), second)
		synctest.Wait()
		cancel()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("the canceled Get = %v, want Canceled", err)
		}
		fill(t, q, 0, 1)
		if err := <-second; err != nil {
			t.Errorf("the other Get = %v, want nil", err)
		}
		if st := q.Stats(); st.GetWaits != 2 || st.Len != 0 {
			t.Errorf("Stats = %+v, want 2 GetWaits and Len 0", st)
		}
	})
}

// TestWaitersInOrder checks that who has waited longest is served first.
func TestWaitersInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := queue.New[int](1)
		got := make([]chan int, 5)
		for i := range got {
			got[i] = make(chan int, 1)
			go func() {
				dst := make([]int, 4)
				if n, err := q.Get(t.Context(), dst); n != 1 || err != nil {
					t.Errorf("Get = %d, %v; want 1, nil", n, err)
				}
				got[i] <- dst[0]
			}()
			synctest.Wait()
		}
		for i := range got {
			fill(t, q, i, i+1)
			if v := <-got[i]; v != i {
				t.Errorf("reader %d got %d, want %d", i, v, i)
			}
		}
	})
}
