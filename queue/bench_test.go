package queue_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"netstackd/queue"
)

// packet is the size of what the link queues: a buffer and its metadata.
type packet [6]uint64

const benchCap = 256

// BenchmarkSPSC is the TUN's case: one reader goroutine, one dispatcher.
func BenchmarkSPSC(b *testing.B) {
	for _, batch := range []int{1, 32, 128} {
		b.Run(fmt.Sprintf("queue/batch=%d", batch), func(b *testing.B) {
			benchQueue(b, 1, 1, batch)
		})
	}
	b.Run("channel", func(b *testing.B) { benchChannel(b, 1, 1) })
}

// BenchmarkMPMC has four goroutines at each end.
func BenchmarkMPMC(b *testing.B) {
	b.Run("queue/batch=32", func(b *testing.B) { benchQueue(b, 4, 4, 32) })
	b.Run("channel", func(b *testing.B) { benchChannel(b, 4, 4) })
}

func benchQueue(b *testing.B, producers, consumers, batch int) {
	b.ReportAllocs()
	q := queue.New[packet](benchCap)
	ctx := context.Background()
	var in, out sync.WaitGroup
	for range consumers {
		out.Go(func() {
			dst := make([]packet, batch)
			for {
				if _, err := q.Get(ctx, dst); err != nil {
					return
				}
			}
		})
	}
	b.ResetTimer()
	for i := range producers {
		in.Go(func() {
			for n := share(b.N, producers, i); n > 0; n-- {
				_ = q.Put(ctx, packet{})
			}
		})
	}
	in.Wait()
	q.Close()
	out.Wait()
	st := q.Stats()
	b.ReportMetric(float64(st.Puts)/float64(st.Gets), "values/get")
	b.ReportMetric(float64(st.GetWaits+st.PutWaits)/float64(st.Puts), "waits/op")
}

func benchChannel(b *testing.B, producers, consumers int) {
	b.ReportAllocs()
	ch := make(chan packet, benchCap)
	var in, out sync.WaitGroup
	for range consumers {
		out.Go(func() {
			for range ch {
			}
		})
	}
	b.ResetTimer()
	for i := range producers {
		in.Go(func() {
			for n := share(b.N, producers, i); n > 0; n-- {
				ch <- packet{}
			}
		})
	}
	in.Wait()
	close(ch)
	out.Wait()
}

func share(n, parts, i int) int { return n*(i+1)/parts - n*i/parts }

// BenchmarkUncontended is the floor: one goroutine puts and takes.
func BenchmarkUncontended(b *testing.B) {
	b.Run("queue", func(b *testing.B) {
		q := queue.New[packet](benchCap)
		ctx := context.Background()
		var dst [1]packet
		for b.Loop() {
			_ = q.Put(ctx, packet{})
			_, _ = q.Get(ctx, dst[:])
		}
	})
	b.Run("channel", func(b *testing.B) {
		ch := make(chan packet, benchCap)
		for b.Loop() {
			ch <- packet{}
			<-ch
		}
	})
}

// BenchmarkHandoff is the latency of a wake-up: one value goes to a waiting
// goroutine and back.
func BenchmarkHandoff(b *testing.B) {
	for _, kind := range []string{"background", "cancelable"} {
		b.Run("queue/ctx="+kind, func(b *testing.B) {
			ctx := context.Background()
			if kind == "cancelable" {
				var cancel context.CancelFunc
				ctx, cancel = context.WithCancel(ctx)
				defer cancel()
			}
			there, back := queue.New[packet](benchCap), queue.New[packet](benchCap)
			var wg sync.WaitGroup
			wg.Go(func() {
				var dst [32]packet
				for {
					if _, err := there.Get(ctx, dst[:]); err != nil {
						return
					}
					_ = back.Put(ctx, packet{})
				}
			})
			b.ReportAllocs()
			var dst [32]packet
			for b.Loop() {
				_ = there.Put(ctx, packet{})
				_, _ = back.Get(ctx, dst[:])
			}
			there.Close()
			wg.Wait()
		})
	}
	b.Run("channel", func(b *testing.B) {
		there, back := make(chan packet, benchCap), make(chan packet, benchCap)
		var wg sync.WaitGroup
		wg.Go(func() {
			for range there {
				back <- packet{}
			}
		})
		for b.Loop() {
			there <- packet{}
			<-back
		}
		close(there)
		wg.Wait()
	})
}
