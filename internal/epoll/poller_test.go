//go:build linux

package epoll_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"netstackd/internal/epoll"
)

func write(t testing.TB, fd int) {
	t.Helper()
	if _, err := unix.Write(fd, []byte{1}); err != nil {
		t.Error(err)
	}
}

// A task that has said that it has much to do does not keep the poller from
// other events.
func TestHeavyTaskLeavesPollerAlone(t *testing.T) {
	l := serve(t, 2)
	ra, wa := pipe(t)
	rb, wb := pipe(t)
	said, stuck, release, others := make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan struct{}, 10)
	first := true
	var task *epoll.Task
	task = epoll.NewTask(l, func() {
		task.SetHeavy(true)
		if first {
			first = false
			close(said)
			return
		}
		stuck <- struct{}{}
		<-release
	})
	task.Schedule()
	<-said
	watch, err := l.Add(ra, unix.EPOLLIN, task)
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Remove()
	other, err := l.Add(rb, unix.EPOLLIN, epoll.NewTask(l, func() { others <- struct{}{} }))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Remove()
	write(t, wa)
	<-stuck
	for range 3 {
		write(t, wb)
		<-others
	}
	close(release)
}

func TestAddReportsErrors(t *testing.T) {
	l := serve(t, 1)
	task := epoll.NewTask(l, func() {})
	if _, err := l.Add(-1, unix.EPOLLIN, task); err == nil {
		t.Error("watches no descriptor")
	}
	r, _ := pipe(t)
	w, err := l.Add(r, unix.EPOLLIN, task)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Add(r, unix.EPOLLIN, task); err == nil {
		t.Error("watches a descriptor twice")
	}
	w.Remove()
	w, err = l.Add(r, unix.EPOLLIN, task)
	if err != nil {
		t.Fatal(err)
	}
	w.Remove()
}

// Watches that come and go while their descriptors are busy: each task hears
// of its own only, and of all that it waits for.
func TestWatchesComeAndGo(t *testing.T) {
	l := serve(t, 2)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				var p [2]int
				if err := unix.Pipe2(p[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
					t.Error(err)
					return
				}
				var watch atomic.Pointer[epoll.Watch]
				heard := make(chan struct{}, 1)
				task := epoll.NewTask(l, func() {
					w := watch.Load()
					if w == nil || w.Events()&unix.EPOLLIN == 0 {
						return
					}
					select {
					case heard <- struct{}{}:
					default:
					}
				})
				w, err := l.Add(p[0], unix.EPOLLIN, task)
				if err != nil {
					t.Error(err)
					return
				}
				watch.Store(w)
				write(t, p[1])
				<-heard
				w.Remove()
				unix.Close(p[0])
				unix.Close(p[1])
			}
		})
	}
	wg.Wait()
}
