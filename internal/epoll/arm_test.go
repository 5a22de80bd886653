//go:build linux

package epoll_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"netstackd/internal/epoll"
)

// watched is a pipe's read end whose events a test takes one by one.
type watched struct {
	*epoll.Watch
	t      *testing.T
	loop   *epoll.Loop
	write  int
	events chan uint32
}

func watchPipe(t *testing.T, l *epoll.Loop) *watched {
	r, w := pipe(t)
	p := &watched{t: t, loop: l, write: w, events: make(chan uint32, 10)}
	ready := make(chan struct{})
	var err error
	p.Watch, err = l.Add(r, unix.EPOLLIN, epoll.NewTask(l, func() {
		<-ready
		if ev := p.Events(); ev != 0 {
			p.events <- ev
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	close(ready)
	return p
}

func (p *watched) put() {
	p.t.Helper()
	if _, err := unix.Write(p.write, []byte{1}); err != nil {
		p.t.Fatal(err)
	}
}

// settle waits until the loop has seen all that happened before.
func settle(t *testing.T, l *epoll.Loop) {
	t.Helper()
	other := watchPipe(t, l)
	other.put()
	<-other.events
	other.Remove()
}

func TestArm(t *testing.T) {
	l := serve(t, 1)
	p := watchPipe(t, l)
	p.put()
	<-p.events
	if err := p.Arm(unix.EPOLLIN); err != nil {
		t.Fatal(err)
	}
	if ev := <-p.events; ev&unix.EPOLLIN == 0 { // there is a byte still
		t.Fatalf("armed with something to read: %#x, want EPOLLIN", ev)
	}
	p.put()
	settle(t, l)
	select {
	case ev := <-p.events:
		t.Fatalf("%#x without being armed again", ev)
	default:
	}
	if err := p.Arm(unix.EPOLLIN); err != nil {
		t.Fatal(err)
	}
	<-p.events
	// Nothing but what it is armed for, and what comes unasked.
	if err := p.Arm(0); err != nil {
		t.Fatal(err)
	}
	p.put()
	settle(t, l)
	if len(p.events) > 0 {
		t.Fatalf("%#x when armed for nothing", <-p.events)
	}
	if err := p.Disarm(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		<-p.events
		p.put()
	}
	p.Remove()
}

// A forgotten watch leaves the kernel with its descriptor, and its slot to the next.
func TestForget(t *testing.T) {
	l := serve(t, 1)
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	ran := make(chan struct{}, 10)
	w, err := l.Add(fds[0], unix.EPOLLIN, epoll.NewTask(l, func() { ran <- struct{}{} }))
	if err != nil {
		t.Fatal(err)
	}
	w.Forget()
	unix.Close(fds[0])
	settle(t, l) // in the same slot
	if len(ran) > 0 {
		t.Error("a forgotten watch's task ran")
	}
}
