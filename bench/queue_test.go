package bench_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"netstackd/queue"
)

// item is the size of what the link queues.
type item [6]uint64

// BenchmarkQueue passes values from one goroutine to another, as the link does,
// beside a Go channel of the same capacity.
func BenchmarkQueue(b *testing.B) {
	const capacity = 256
	for _, batch := range []int{1, 64} {
		b.Run(fmt.Sprintf("queue/batch=%d", batch), func(b *testing.B) {
			b.ReportAllocs()
			q, ctx := queue.New[item](capacity), context.Background()
			var consumer sync.WaitGroup
			consumer.Go(func() {
				for dst := make([]item, batch); ; {
					if _, err := q.Get(ctx, dst); err != nil {
						return
					}
				}
			})
			for b.Loop() {
				if err := q.Put(ctx, item{}); err != nil {
					b.Fatal(err)
				}
			}
			q.Close()
			consumer.Wait()
		})
	}
	b.Run("channel", func(b *testing.B) {
		b.ReportAllocs()
		ch := make(chan item, capacity)
		var consumer sync.WaitGroup
		consumer.Go(func() {
			for range ch {
			}
		})
		for b.Loop() {
			ch <- item{}
		}
		close(ch)
		consumer.Wait()
	})
}
