package epoll

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

const maxEvents = 128

type poller struct {
	fd   int
	file *os.File // fd again, as the Go runtime polls it
	conn syscall.RawConn

	closed atomic.Bool

	mu      sync.Mutex
	watches []*Watch // by slot; nil = free
	free    []int32  // free slots
	gen     uint32   // of the last watch
}

// Watch is one descriptor's registration.
type Watch struct {
	loop   *Loop
	task   *Task
	fd     int
	asked  uint32 // events, of Add
	slot   int32
	gen    uint32
	events atomic.Uint32
}

// New returns a Loop with this many workers; 0 = one for each core, but at
// least two. Nothing runs before Serve.
func New(workers int) (*Loop, error) {
	if workers <= 0 {
		workers = max(2, runtime.GOMAXPROCS(0))
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: create: %w", err)
	}
	// os.File registers only non-blocking descriptors with the runtime's
	// poller. epoll_wait ignores the flag.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("epoll: %w", err)
	}
	l := &Loop{workers: workers}
	l.fd = fd
	l.file = os.NewFile(uintptr(fd), "epoll")
	if l.conn, err = l.file.SyscallConn(); err != nil {
		l.file.Close()
		return nil, fmt.Errorf("epoll: %w", err)
	}
	l.queue.init()
	return l, nil
}

// Serve polls and runs tasks until ctx ends or the loop is closed. It then waits
// for the tasks that run. Tasks that are scheduled later do not run.
func (l *Loop) Serve(ctx context.Context) error {
	var wg sync.WaitGroup
	for range l.workers {
		wg.Go(l.work)
	}
	stop := context.AfterFunc(ctx, func() { l.Close() })
	err := l.poll()
	stop()
	l.queue.close()
	wg.Wait()
	if l.closed.Load() {
		return nil
	}
	return err
}

// Close ends Serve. It is idempotent. All watches must have been removed before.
func (l *Loop) Close() error {
	if !l.closed.CompareAndSwap(false, true) {
		return nil
	}
	return l.file.Close()
}

// poll collects events until the loop is closed. It stays in one call of Read:
// the runtime then remembers readiness that is signaled while events are
// handled, which saves one epoll_wait before each wait.
func (l *Loop) poll() error {
	var events [maxEvents]unix.EpollEvent
	var err error
	rerr := l.conn.Read(func(fd uintptr) (stop bool) {
		for n := maxEvents; n == maxEvents; {
			n, err = unix.EpollWait(int(fd), events[:], 0)
			switch {
			case err == unix.EINTR:
				n, err = maxEvents, nil
				continue
			case err != nil:
				return true
			}
			l.dispatch(events[:n])
		}
		return false
	})
	if err == nil {
		err = rerr
	}
	return fmt.Errorf("epoll: wait: %w", err)
}

// dispatch runs or schedules the tasks that events are for.
func (l *Loop) dispatch(events []unix.EpollEvent) {
	if len(events) == 1 {
		if t := l.taskOf(&events[0]); t != nil {
			t.runNow()
		}
		return
	}
	for i := range events {
		if t := l.taskOf(&events[i]); t != nil {
			t.Schedule()
		}
	}
}

// taskOf records an event and returns the task of its watch, or nil if the watch
// was removed after the kernel queued the event.
func (l *Loop) taskOf(ev *unix.EpollEvent) *Task {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.watches[ev.Fd]
	if w == nil || w.gen != uint32(ev.Pad) {
		return nil
	}
	w.events.Or(ev.Events)
	return w.task
}

// Add watches fd for the events (EPOLLIN, EPOLLOUT, …), edge-triggered: the task
// is scheduled when an event becomes true, and once now if one is true already.
// Errors and hang-ups are always reported. The descriptor must stay open until
// Remove.
func (l *Loop) Add(fd int, events uint32, t *Task) (*Watch, error) {
	w := &Watch{loop: l, task: t, fd: fd, asked: events}
	l.mu.Lock()
	l.gen++
	w.gen = l.gen
	if n := len(l.free); n > 0 {
		w.slot = l.free[n-1]
		l.free = l.free[:n-1]
		l.watches[w.slot] = w
	} else {
		w.slot = int32(len(l.watches))
		l.watches = append(l.watches, w)
	}
	l.mu.Unlock()
	if err := w.control(unix.EPOLL_CTL_ADD, events|unix.EPOLLET); err != nil {
		l.forget(w)
		return nil, fmt.Errorf("epoll: add: %w", err)
	}
	return w, nil
}

func (w *Watch) control(op int, events uint32) error {
	// The kernel returns these 64 bits of user data with each event. x/sys names
	// them Fd and Pad.
	ev := unix.EpollEvent{Events: events, Fd: w.slot, Pad: int32(w.gen)}
	return unix.EpollCtl(w.loop.fd, op, w.fd, &ev)
}

// Arm makes the watch report the events once (EPOLLONESHOT), also those that are
// true now, and then nothing until it is armed again. A busy task uses it, so
// that events during its run do not wake the poller. Errors and hang-ups are
// reported too. A hang-up stays true: call Disarm after it.
func (w *Watch) Arm(events uint32) error {
	if err := w.control(unix.EPOLL_CTL_MOD, events|unix.EPOLLONESHOT); err != nil {
		return fmt.Errorf("epoll: arm: %w", err)
	}
	return nil
}

// Disarm makes the watch edge-triggered again, as Add made it.
func (w *Watch) Disarm() error {
	if err := w.control(unix.EPOLL_CTL_MOD, w.asked|unix.EPOLLET); err != nil {
		return fmt.Errorf("epoll: disarm: %w", err)
	}
	return nil
}

// Events returns the events that came since the last call.
func (w *Watch) Events() uint32 { return w.events.Swap(0) }

// Remove ends the watch. It no longer schedules its task.
func (w *Watch) Remove() {
	// This fails only when the loop is closed, which has ended all watches.
	_ = unix.EpollCtl(w.loop.fd, unix.EPOLL_CTL_DEL, w.fd, nil)
	w.loop.forget(w)
}

// Forget is Remove without a system call, for a descriptor that was never
// duplicated and is closed next: close(2) removes it from the kernel's list.
func (w *Watch) Forget() { w.loop.forget(w) }

func (l *Loop) forget(w *Watch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.watches[w.slot] == w {
		l.watches[w.slot] = nil
		l.free = append(l.free, w.slot)
	}
}
