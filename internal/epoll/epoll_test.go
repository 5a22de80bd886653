//go:build linux

package epoll_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"netstackd/internal/epoll"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs a loop until the test ends.
func serve(t testing.TB, workers int) *epoll.Loop {
	t.Helper()
	l, err := epoll.New(workers)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return l
}

func pipe(t testing.TB) (r, w int) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Close(p[0])
		unix.Close(p[1])
	})
	return p[0], p[1]
}

func TestLoopReportsReadiness(t *testing.T) {
	l := serve(t, 0)
	r, w := pipe(t)
	got := make(chan uint32, 10)
	var watch *epoll.Watch
	ready := make(chan struct{})
	task := epoll.NewTask(l, func() {
		<-ready
		if ev := watch.Events(); ev != 0 {
			got <- ev
		}
	})
	watch, err := l.Add(r, unix.EPOLLIN, task)
	if err != nil {
		t.Fatal(err)
	}
	close(ready)
	for range 3 {
		if _, err := unix.Write(w, []byte{1}); err != nil {
			t.Fatal(err)
		}
		if ev := <-got; ev&unix.EPOLLIN == 0 {
			t.Fatalf("events %#x", ev)
		}
	}
	watch.Remove()
	if _, err := unix.Write(w, []byte{1}); err != nil {
		t.Fatal(err)
	}
	// A second watch in the same slot hears of its own descriptor only.
	r2, w2 := pipe(t)
	again := make(chan uint32, 10)
	var watch2 *epoll.Watch
	ready2 := make(chan struct{})
	watch2, err = l.Add(r2, unix.EPOLLIN, epoll.NewTask(l, func() {
		<-ready2
		again <- watch2.Events()
	}))
	if err != nil {
		t.Fatal(err)
	}
	close(ready2)
	if _, err := unix.Write(w2, []byte{1}); err != nil {
		t.Fatal(err)
	}
	<-again
	watch2.Remove()
	select {
	case ev := <-got:
		t.Fatalf("a removed watch reported %#x", ev)
	default:
	}
}

// Many goroutines schedule many tasks; no run may overlap another of the same
// task, and each must see what was done before its last Schedule.
func TestTaskSerializesAndMissesNothing(t *testing.T) {
	l := serve(t, 4)
	const tasks, producers, puts = 20, 8, 2000
	type job struct {
		task    epoll.Task
		posted  atomic.Int64
		inside  atomic.Bool
		seen    int64
		done    chan struct{}
		overlap atomic.Bool
	}
	jobs := make([]*job, tasks)
	for i := range jobs {
		j := &job{done: make(chan struct{})}
		j.task.Init(l, func() {
			if !j.inside.CompareAndSwap(false, true) {
				j.overlap.Store(true)
			}
			if n := j.posted.Load(); n != j.seen {
				if j.seen = n; n == producers*puts {
					close(j.done)
				}
			}
			j.inside.Store(false)
		})
		jobs[i] = j
	}
	var wg sync.WaitGroup
	for range producers {
		wg.Go(func() {
			for range puts {
				for _, j := range jobs {
					j.posted.Add(1)
					j.task.Schedule()
				}
			}
		})
	}
	wg.Wait()
	for i, j := range jobs {
		<-j.done // hangs, and the test fails, if a wake-up was lost
		if j.overlap.Load() {
			t.Errorf("task %d ran twice at once", i)
		}
	}
}

func TestTaskStop(t *testing.T) {
	l := serve(t, 1)
	runs := 0
	done := make(chan struct{})
	var task *epoll.Task
	task = epoll.NewTask(l, func() {
		runs++
		task.Schedule() // would run again
		task.Stop()
		close(done)
	})
	task.Schedule()
	<-done
	task.Schedule()
	// With one worker, a later task runs after anything queued before it.
	after := make(chan struct{})
	epoll.NewTask(l, func() { close(after) }).Schedule()
	<-after
	if runs != 1 {
		t.Fatalf("ran %d times", runs)
	}
}

func TestScheduleDoesNotAllocate(t *testing.T) {
	l := serve(t, 1)
	done := make(chan struct{}, 1)
	task := epoll.NewTask(l, func() { done <- struct{}{} })
	if n := testing.AllocsPerRun(100, func() {
		task.Schedule()
		<-done
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func BenchmarkSchedule(b *testing.B) {
	l := serve(b, 0)
	done := make(chan struct{}, 1)
	task := epoll.NewTask(l, func() { done <- struct{}{} })
	for b.Loop() {
		task.Schedule()
		<-done
	}
}
