// Package relay moves bytes between the two ends of a flow, in both
// directions, until both have ended.
//
// # Theory of operation
//
// A pair is the two ends of one flow and one epoll.Task. The task runs when
// either end became readable, writable or broken, moves what can be moved
// without waiting, and returns: an idle flow holds neither goroutine nor
// buffer. All that touches an end happens on the task, so that nothing is
// closed under a system call that uses its memory.
//
// How bytes move depends on what the ends are:
//
//	Endpoint → socket   Peek the stack's own memory, writev it, Discard
//	socket → Endpoint   receive into the memory that the stack sends from
//	socket → socket     splice through a pipe, which is held only while full
//	anything else       two goroutines with pooled buffers
//
// A pair has no field for its state: the two halves (one for each direction) and
// the events of both ends decide. The task's states, and what each run does:
//
//	state     event                          action                        next
//	start     first run                      watch both ends               moving
//	moving    readable and writable          move bytes, up to a budget    moving
//	moving    budget spent                   queue the task again, behind  moving
//	                                         the other flows
//	moving    source empty or no room at     wait for events of the end    idle
//	          the destination                that is not ready
//	idle      event of an end, new limits,   -                             moving
//	          kill
//	moving    FIN of one end, its bytes      pass the FIN on               half
//	          moved
//	half      bytes of the other end         as moving                     half
//	half      FIN of the other end, and the  close both ends               ended
//	          stack has sent everything
//	any       error or reset of an end       reset both ends               ended
//	any       kill                           reset both ends, except a     ended
//	                                         socket that has got its FIN
//
// There is no timer here: keep-alive and the idle timeout belong to the ends and
// to the flow registry. There is no lock either: any goroutine may report events
// (signals.events) or a kill (pair.killed), which are atomic, and everything else
// belongs to the task.
//
// A FIN is passed on after everything before it. The other direction stays open
// for as long as its end sends. A reset of either end resets the other, also
// after a FIN. A flow has ended when both FINs were passed on and an end in the
// stack has nothing left to send. The kernel delivers what its sockets have queued,
// even after close. What the stack has queued would be lost, and counts as the
// flow's memory. So a kill resets both ends, except a socket that has got its FIN.
package relay

import (
	"net"
	"sync"
	"sync/atomic"

	"netstackd/internal/epoll"
	"netstackd/internal/flow"
)

// Endpoint is a TCP connection in a userspace stack that can be relayed
// without copies. Its methods other than net.Conn's are called by one
// goroutine at a time.
type Endpoint interface {
	net.Conn
	// Watch makes notify the listener to readiness, in epoll's bits, starting
	// with what is ready now. It may be called under locks of the stack, so it
	// does no more than schedule.
	Watch(notify func(events uint32))
	// Unwatch ends Watch.
	Unwatch()
	// Peek appends slices of the unread bytes to bufs, up to its capacity. They
	// are valid until Discard, Close or Reset. EAGAIN: nothing yet; io.EOF:
	// nothing more.
	Peek(bufs [][]byte) ([][]byte, int, error)
	// Discard takes n bytes that Peek has shown.
	Discard(n int) error
	// ReceiveFrom moves up to max bytes that a socket is known to hold into the
	// send queue. EAGAIN: the queue is full, and nothing was taken from the
	// socket.
	ReceiveFrom(fd, max int) (int, error)
	// TryWrite queues as much of b as fits. EAGAIN: nothing does.
	TryWrite(b []byte) (int, error)
	// SetBuffers sets the most bytes that the connection queues each way.
	SetBuffers(receive, send int)
	// CloseWrite sends FIN after what is queued.
	CloseWrite() error
	// Reset ends the connection with RST.
	Reset()
	// Broken returns why the connection ended before its time, or nil.
	Broken() error
	// Settled reports, once both sides have closed, whether the peer has
	// acknowledged everything. Watch tells of it as a hang-up.
	Settled() bool
}

// Socket is a TCP connection of the kernel that gives away its descriptor, as
// *net.TCPConn does in its way: non-blocking, and valid until Close.
type Socket interface {
	net.Conn
	Descriptor() int
	// Detach makes the descriptor the caller's, and ends the connection
	// otherwise, if it can: if the Go runtime does not poll it.
	Detach() bool
}

// Prefixed is a connection from which bytes were read that belong to the flow.
// They are delivered first; after Unwrap the wrapper is not used any more.
type Prefixed interface {
	net.Conn
	Unwrap() (prefix []byte, conn net.Conn)
}

// Stats counts flows by how their bytes moved.
type Stats struct {
	Userspace int64 // between the stack and a socket, without copies
	Spliced   int64 // between two sockets, without copies
	Copied    int64 // the rest
	Open      int64 // of all these, flows under way
}

// Config of a Relay. The zero value works.
type Config struct {
	// Waiting is called after the number of directions that wait for their
	// reader changed, from a worker of the loop. It must not block.
	Waiting func(directions int)
	// Proven is called in the same way after the number of proven flows changed.
	Proven func(flows int)
}

// Relay joins pairs of connections. Use New.
type Relay struct {
	zeroCopy // x_linux.go, x_other.go
	memory

	loop    *epoll.Loop
	buffers sync.Pool // *[copyBuffer]byte
	wg      sync.WaitGroup

	userspace, spliced, copied, open atomic.Int64
}

// New returns a Relay whose flows are moved by the loop's workers. The caller
// serves the loop, and closes it after Wait.
func New(loop *epoll.Loop, cfg Config) *Relay {
	r := &Relay{loop: loop}
	r.memory.init(cfg)
	r.buffers.New = func() any { return new([copyBuffer]byte) }
	r.zeroCopy.init()
	return r
}

// Join relays between the flow's two ends until both directions have ended. It
// returns at once, and takes over both connections and the flow.
func (r *Relay) Join(f *flow.Flow, inbound, outbound net.Conn) {
	r.wg.Add(1)
	r.open.Add(1)
	f.Begin()
	inPrefix, inbound := unwrap(inbound)
	outPrefix, outbound := unwrap(outbound)
	if !r.joinPair(f, inbound, outbound, inPrefix, outPrefix) {
		r.copied.Add(1)
		r.joinCopy(f, inbound, outbound, inPrefix, outPrefix)
	}
}

// unwrap takes off any number of wrappers.
func unwrap(c net.Conn) ([]byte, net.Conn) {
	var all []byte
	for {
		w, ok := c.(Prefixed)
		if !ok {
			return all, c
		}
		var prefix []byte
		// An inner wrapper has read its bytes earlier.
		prefix, c = w.Unwrap()
		all = append(prefix[:len(prefix):len(prefix)], all...)
	}
}

// ended is called once for each joined flow.
func (r *Relay) ended(f *flow.Flow) {
	f.Close()
	r.open.Add(-1)
	r.wg.Done()
}

// Wait waits until no flow is left. Flows end by themselves or are killed
// through their registry.
func (r *Relay) Wait() {
	r.wg.Wait()
	r.zeroCopy.close()
}

// Stats returns the relay's counters.
func (r *Relay) Stats() Stats {
	return Stats{
		Userspace: r.userspace.Load(),
		Spliced:   r.spliced.Load(),
		Copied:    r.copied.Load(),
		Open:      r.open.Load(),
	}
}
