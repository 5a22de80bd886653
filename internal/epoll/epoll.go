// Package epoll runs short tasks when file descriptors become ready. A few
// goroutines serve any number of descriptors.
//
// # Theory of operation
//
// With a goroutine for each direction, an idle connection costs kilobytes of
// stack. Here it costs an entry in the kernel's interest list and a Task.
//
//	kernel ─► epoll ─► poller ─► Task.Schedule ─► run queue ─► workers ─► run()
//	gVisor's notifications ────────────┘
//
// When the poller finds a single event, it runs the task itself, which saves a
// hand-over to a worker. It does not do so for a task that is marked heavy.
//
// The function of a Task never runs twice at the same time:
//
//	state      Schedule       the function returns
//	idle       → queued
//	queued     no change      (a worker starts it: → running)
//	running    → runAgain     → idle
//	runAgain   no change      → queued
//	taskStops  no change      never runs again
//
// So the function needs no lock for its own state, and no event is lost: an
// event that comes while the function runs makes it run once more.
//
// The poller does not block in epoll_wait, because that would take a thread
// from the Go scheduler. An epoll descriptor can itself be polled. The poller
// waits for it in the Go runtime's poller, like a goroutine that reads a
// socket, and then collects the events without waiting.
package epoll

import (
	"sync"
	"sync/atomic"
)

// Loop is a set of watched descriptors and the workers that run their tasks.
type Loop struct {
	poller // x_linux.go, x_other.go

	workers int
	queue   runQueue
}

// Task is a function that runs on a Loop's workers when it is scheduled.
type Task struct {
	loop  *Loop
	run   func()
	state atomic.Uint32
	heavy atomic.Bool
	next  *Task // in the run queue, guarded by its lock
}

// States of a Task.
const (
	idle      = iota
	queued    // in the run queue
	running   // run has been called
	runAgain  // scheduled while running
	taskStops // never runs again
)

// NewTask returns a task for the loop. The function should return soon: it may
// make system calls, but must not block.
func NewTask(l *Loop, run func()) *Task {
	t := new(Task)
	t.Init(l, run)
	return t
}

// Init is NewTask for a Task that is a field of another struct.
func (t *Task) Init(l *Loop, run func()) { t.loop, t.run = l, run }

// Schedule makes the task run at least once after this call. It never blocks.
func (t *Task) Schedule() {
	for {
		switch s := t.state.Load(); s {
		case idle:
			if t.state.CompareAndSwap(idle, queued) {
				t.loop.queue.put(t)
				return
			}
		case running:
			if t.state.CompareAndSwap(running, runAgain) {
				return
			}
		default: // the task is queued, will run again, or has stopped
			return
		}
	}
}

// Stop keeps the task from running again. When the task's own function calls
// it, the current run is the last. When another goroutine calls it, one run may
// be in progress.
func (t *Task) Stop() { t.state.Store(taskStops) }

// SetHeavy marks a task whose runs take long, so that the poller does not run
// it while other events wait. Only the task's own function calls it.
func (t *Task) SetHeavy(heavy bool) {
	if t.heavy.Load() != heavy {
		t.heavy.Store(heavy)
	}
}

// runNow runs the task on the poller if it is idle and not heavy, and schedules
// it otherwise.
func (t *Task) runNow() {
	if !t.heavy.Load() && t.state.CompareAndSwap(idle, running) {
		t.do()
		return
	}
	t.Schedule()
}

// do runs a task whose state is running.
func (t *Task) do() {
	t.run()
	if t.state.CompareAndSwap(running, idle) {
		return
	}
	if t.state.CompareAndSwap(runAgain, queued) {
		t.loop.queue.put(t) // at the end, behind the tasks that wait
	}
}

// runQueue is an unbounded list of tasks. Tasks are linked by their own field,
// so put neither allocates nor fails. A task is in the list at most once.
type runQueue struct {
	mu         sync.Mutex
	wake       sync.Cond
	head, tail *Task
	waiting    int
	closed     bool
}

func (q *runQueue) init() { q.wake.L = &q.mu }

func (q *runQueue) put(t *Task) {
	q.mu.Lock()
	t.next = nil
	if q.tail == nil {
		q.head = t
	} else {
		q.tail.next = t
	}
	q.tail = t
	wake := q.waiting > 0
	if wake {
		q.waiting--
	}
	q.mu.Unlock()
	if wake {
		q.wake.Signal()
	}
}

// get waits for a task; nil means that the queue is closed and empty.
func (q *runQueue) get() *Task {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.head == nil {
		if q.closed {
			return nil
		}
		q.waiting++
		q.wake.Wait()
	}
	t := q.head
	q.head = t.next
	if q.head == nil {
		q.tail = nil
	}
	t.next = nil
	return t
}

func (q *runQueue) close() {
	q.mu.Lock()
	q.closed = true
	q.waiting = 0
	q.mu.Unlock()
	q.wake.Broadcast()
}

// work runs tasks until the queue is closed.
func (l *Loop) work() {
	for t := l.queue.get(); t != nil; t = l.queue.get() {
		if t.state.CompareAndSwap(queued, running) { // unless it was stopped
			t.do()
		}
	}
}
