package queue_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"netstackd/queue"
)

// token says who put it and as which of its own.
type token struct{ producer, seq int }

// consumer checks that it sees each producer's tokens in order.
type consumer struct {
	t    *testing.T
	last []int
	got  int
}

func newConsumer(t *testing.T, producers int) *consumer {
	return &consumer{t: t, last: make([]int, producers)}
}

func (c *consumer) take(tokens []token) {
	for _, k := range tokens {
		if k.seq <= c.last[k.producer] {
			c.t.Errorf("token %d of producer %d came after %d", k.seq, k.producer, c.last[k.producer])
		}
		c.last[k.producer] = k.seq
		c.got++
	}
}

// TestStress loses no wake-up: with a capacity this small everybody waits all
// the time, and one lost wake-up would stop the test for good. Every token that
// was put is taken exactly once, though a quarter of the calls have contexts that
// are canceled at any moment.
func TestStress(t *testing.T) {
	for _, c := range []struct{ producers, consumers, capacity, batch int }{
		{1, 1, 1, 1}, {1, 1, 7, 32}, {4, 1, 2, 4}, {1, 4, 2, 4}, {4, 4, 1, 1}, {8, 8, 5, 3}, {100, 100, 3, 2},
	} {
		stress(t, c.producers, c.consumers, c.capacity, c.batch, 20_000/c.producers)
	}
}

func stress(t *testing.T, producers, consumers, capacity, batch, each int) {
	t.Helper()
	q := queue.New[token](capacity)
	var in, out sync.WaitGroup
	var taken, sum atomic.Int64
	for p := range producers {
		in.Go(func() {
			for seq := 1; seq <= each; {
				ctx, stop := sometimesCanceled(seq)
				err := q.Put(ctx, token{p, seq})
				stop()
				switch {
				case err == nil:
					seq++
				case errors.Is(err, context.Canceled):
					runtime.Gosched() // or producer and canceler keep the processor to themselves
				default:
					t.Errorf("Put = %v", err)
					return
				}
			}
		})
	}
	for range consumers {
		out.Go(func() {
			c := newConsumer(t, producers)
			dst := make([]token, batch)
			for round := 0; ; round++ {
				ctx, stop := sometimesCanceled(round)
				n, err := q.Get(ctx, dst)
				stop()
				c.take(dst[:n])
				for _, k := range dst[:n] {
					sum.Add(int64(k.seq))
				}
				if errors.Is(err, queue.ErrClosed) {
					break
				}
				runtime.Gosched()
			}
			taken.Add(int64(c.got))
		})
	}
	in.Wait()
	q.Close()
	out.Wait()
	if got, want := taken.Load(), int64(producers*each); got != want {
		t.Errorf("%d producers, %d consumers, capacity %d: took %d tokens, want %d", producers, consumers, capacity, got, want)
	}
	if got, want := sum.Load(), int64(producers*each*(each+1)/2); got != want {
		t.Errorf("%d producers, %d consumers, capacity %d: sum %d, want %d: some token twice", producers, consumers, capacity, got, want)
	}
}

// sometimesCanceled returns, every fourth time, a context that another
// goroutine is canceling meanwhile.
func sometimesCanceled(i int) (context.Context, func()) {
	if i%4 != 0 {
		return context.Background(), func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(cancel)
	return ctx, wg.Wait
}

// TestCloseRace closes at any moment: whatever Put said it put is taken, and nothing else.
func TestCloseRace(t *testing.T) {
	for round := range 300 {
		q := queue.New[token](1 + round%4)
		var wg sync.WaitGroup
		var put, taken atomic.Int64
		for p := range 3 {
			wg.Go(func() {
				for seq := 1; q.Put(context.Background(), token{p, seq}) == nil; seq++ {
					put.Add(1)
				}
			})
			wg.Go(func() {
				dst := make([]token, 2)
				for {
					n, err := q.Get(context.Background(), dst)
					if taken.Add(int64(n)); err != nil {
						return
					}
					if taken.Load() > 20 {
						q.Close()
					}
				}
			})
		}
		wg.Wait()
		if put.Load() != taken.Load() {
			t.Fatalf("round %d: put %d and took %d", round, put.Load(), taken.Load())
		}
	}
}
