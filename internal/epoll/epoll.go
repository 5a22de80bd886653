// Package epoll runs small tasks when file descriptors become ready, for very
// many descriptors with very few goroutines.
//
// # Theory of operation
//
// A goroutine for each direction of each connection costs kilobytes of stack
// while nothing happens. Here, an idle connection costs an entry in the
// kernel's interest list and a Task.
//
//	kernel ─► epoll ─► poller ─► Task.Schedule ─► run queue ─► workers ─► run()
//	gVisor's notifications ────────────┘
//
// A single event, as when one flow answers another's request, saves the hand-off:
// the poller runs its task itself, unless that has said that it has much to do.
//
// A Task is one function that never runs twice at once. Scheduling it while it
// is queued does nothing; scheduling it while it runs makes it run again. So
// the function may look at all its state without a lock, and no event that
// came before its last look is lost.
//
// The poller does not sit in epoll_wait, where it would keep a thread from the
// Go scheduler: epoll descriptors can themselves be polled, so it waits for
// its own in the Go runtime's poller, like any goroutine that reads a socket,
// and collects events when there are some.
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

// NewTask returns a task for the loop. The function runs on one worker at a
// time and should return soon: it may make system calls, but not wait.
func NewTask(l *Loop, run func()) *Task {
	t := new(Task)
	t.Init(l, run)
	return t
}

// Init is NewTask for a Task that is part of another struct.
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
		default: // it will run anyway, or never again
			return
		}
	}
}

// Stop keeps the task from running again. Called from its own function, this
// run is the last; called from elsewhere, one run may still be under way.
func (t *Task) Stop() { t.state.Store(taskStops) }

// SetHeavy says whether the task has much to do each time it runs, so that
// other events would wait for it. A task says so of itself, from its function.
func (t *Task) SetHeavy(heavy bool) {
	if t.heavy.Load() != heavy {
		t.heavy.Store(heavy)
	}
}

// runNow runs the task on the poller, if that may be.
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
		t.loop.queue.put(t) // at the end: others come first
	}
}

// runQueue is an unbounded list of tasks. It is intrusive, so that putting
// neither allocates nor fails: each task is in it at most once.
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
