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
	// Non-blocking is what makes os.File hand the descriptor to the runtime's
	// poller; epoll_wait itself takes no notice.
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

// Serve polls and runs tasks until ctx ends or the loop is closed, then waits
// for the tasks under way. Tasks scheduled later do not run.
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

// Close ends Serve. It is idempotent. Whoever watches descriptors must have
// removed them before.
func (l *Loop) Close() error {
	if !l.closed.CompareAndSwap(false, true) {
		return nil
	}
	return l.file.Close()
}

// poll collects events until the loop is closed. It never leaves the one Read:
// that way the runtime keeps a readiness that comes while events are handled,
// and a look for more before each wait is saved.
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

// taskOf notes an event and returns the task that waits for it; nil if its
// watch was removed since the kernel queued the event.
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

// Add watches fd for the events (EPOLLIN, EPOLLOUT, …; errors and hang-ups
// come unasked), edge-triggered: the task is scheduled when one becomes true,
// and once at the start for those that are. The descriptor must stay open
// until Remove.
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
	// The kernel hands back 64 bits of ours, which x/sys names Fd and Pad.
	ev := unix.EpollEvent{Events: events, Fd: w.slot, Pad: int32(w.gen)}
	return unix.EpollCtl(w.loop.fd, op, w.fd, &ev)
}

// Arm makes the watch tell of the events once, those that are true already
// included, and then of nothing before it is armed again. That is for tasks
// that are busy most of the time: events that come while they are at work wake
// nobody. Errors and hang-ups count, unasked: after a hang-up, which lasts,
// Disarm.
func (w *Watch) Arm(events uint32) error {
	if err := w.control(unix.EPOLL_CTL_MOD, events|unix.EPOLLONESHOT); err != nil {
		return fmt.Errorf("epoll: arm: %w", err)
	}
	return nil
}

// Disarm makes the watch what it was after Add, edge-triggered.
func (w *Watch) Disarm() error {
	if err := w.control(unix.EPOLL_CTL_MOD, w.asked|unix.EPOLLET); err != nil {
		return fmt.Errorf("epoll: disarm: %w", err)
	}
	return nil
}

// Events returns the events that came since the last call.
func (w *Watch) Events() uint32 { return w.events.Swap(0) }

// Remove ends the watch. Its task is not scheduled for it any more.
func (w *Watch) Remove() {
	// Fails only when the loop is closed, which ends all watches anyway.
	_ = unix.EpollCtl(w.loop.fd, unix.EPOLL_CTL_DEL, w.fd, nil)
	w.loop.forget(w)
}

// Forget is Remove for a descriptor that is closed next, and was never
// duplicated: closing takes it out of the kernel's list, too.
func (w *Watch) Forget() { w.loop.forget(w) }

func (l *Loop) forget(w *Watch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.watches[w.slot] == w {
		l.watches[w.slot] = nil
		l.free = append(l.free, w.slot)
	}
}
