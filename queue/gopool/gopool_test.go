package gopool_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"netstackd/queue/gopool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Each function runs once, all at the same time if need be, and Wait waits.
func TestPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p gopool.Pool
		var started, ended atomic.Int64
		const n = 100
		for round := range int64(3) {
			hold := make(chan struct{})
			for range n {
				p.Go(func() {
					started.Add(1)
					<-hold
					ended.Add(1)
				})
			}
			synctest.Wait()
			if got := started.Load(); got != n*(round+1) {
				t.Fatalf("%d functions have started, want %d at once", got, n*(round+1))
			}
			close(hold)
			synctest.Wait()
		}
		p.Go(func() {
			time.Sleep(time.Hour)
			p.Go(func() { ended.Add(1) }) // from a function while Wait waits
			ended.Add(1)
		})
		p.Wait()
		if got := ended.Load(); got != 3*n+2 {
			t.Errorf("%d functions have ended when Wait has returned, want %d", got, 3*n+2)
		}
	})
}

func BenchmarkGo(b *testing.B) {
	var deep func(n int) byte
	deep = func(n int) byte { // needs 8 KB of stack
		var page [1024]byte
		if n == 0 {
			return page[0]
		}
		return deep(n-1) + page[n]
	}
	b.Run("pool", func(b *testing.B) {
		var p gopool.Pool
		defer p.Wait()
		done := make(chan byte)
		for b.Loop() {
			p.Go(func() { done <- deep(6) })
			<-done
		}
	})
	b.Run("go", func(b *testing.B) {
		done := make(chan byte)
		for b.Loop() {
			go func() { done <- deep(6) }()
			<-done
		}
	})
}
