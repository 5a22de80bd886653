package relay

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"netstackd/internal/epoll"
	"netstackd/internal/flow"
)

// zeroCopy is what a Relay needs to move bytes without copies.
type zeroCopy struct {
	pipes   pipePool
	scratch sync.Pool // *scratch
}

func (z *zeroCopy) init() { z.scratch.New = func() any { return new(scratch) } }

func (z *zeroCopy) close() { z.pipes.close() }

// budget is how many bytes one run moves in each direction before other flows
// get their turn.
const budget = 1 << 20

// smallMove is the most that is copied: below it, a copy costs less than the
// system calls that avoid one.
const smallMove = 16 << 10

// bulkMove is how much a run of a bulk flow moves: beside that, the system calls
// that save events cost little.
const bulkMove = 128 << 10

// errBudget says that there is more to move than one run may.
var errBudget = errors.New("relay: budget spent")

// signals is what is known of an end's readiness. Any goroutine may report
// events; the flags belong to the task.
type signals struct {
	task   *epoll.Task
	events atomic.Uint32

	readable bool // may have something to read
	writable bool // may have room
	hangup   bool // the peer has sent FIN, or the end is broken
	broken   bool // an error was reported
	urgent   bool // urgent data came, which splice does not see
}

// notify records events and has the task look at them.
func (s *signals) notify(events uint32) {
	s.events.Or(events)
	s.task.Schedule()
}

// take turns events into flags. A flag is cleared when a call finds it untrue.
func (s *signals) take(events uint32) {
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		s.readable = true
	}
	if events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		s.writable = true
	}
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		s.hangup = true
	}
	if events&unix.EPOLLPRI != 0 {
		s.urgent, s.readable = true, true
	}
	if events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		s.broken = true
	}
}

// end is one side of a pair.
type end interface {
	sig() *signals
	watch() error
	// becomeBulk is called after a run that moved more than bulkMove.
	becomeBulk()
	// await makes the task run when the end becomes ready for what it is not ready
	// for now.
	await(read, write bool) error
	// collect takes the events that came.
	collect()
	// fault returns the error of an end that reported one, or nil.
	fault() error
	// tryWrite writes what fits of b, or returns EAGAIN.
	tryWrite(b []byte) (int, error)
	closeWrite() error
	// setBuffers limits what the end queues.
	setBuffers(b Buffers)
	// settled reports whether nothing would be lost by closing an end that both
	// sides have half-closed.
	settled() bool
	// close and reset end the watch and the connection.
	close()
	reset()
}

// half is one direction of a pair.
type half struct {
	src, dst end
	prefix   []byte // to be written before anything that src holds
	pipe     *pipe  // socket to socket, while bytes are in it
	bulk     bool   // socket to socket: there was more than a small move last time
	done     bool   // FIN was passed on
	waiting  bool   // dst has no room
}

// delivered reports whether all that goes to dst is the kernel's to deliver. A
// reset would take it back.
func (h *half) delivered() bool {
	_, socket := h.dst.(*socketEnd)
	return h.done && socket
}

// pair is a flow under way. Everything but killed belongs to the task.
type pair struct {
	r        *Relay
	f        *flow.Flow
	task     epoll.Task
	up, down half
	buffers  *Buffers // adopted last
	moved    int64    // bytes, in both directions
	after    int64    // how many have to have moved for the flow to be proven
	proven   bool     // see Buffers
	place    bool     // one of MaxProven is taken
	killed   atomic.Bool
	watched  bool // both ends are, from the first run on
}

// joinPair starts a pair if the relay can work on both ends directly.
func (r *Relay) joinPair(f *flow.Flow, inbound, outbound net.Conn, inPrefix, outPrefix []byte) bool {
	p := &pair{r: r, f: f}
	in, out := r.newEnd(p, inbound), r.newEnd(p, outbound)
	if in == nil || out == nil {
		return false
	}
	_, inEP := in.(*endpointEnd)
	_, outEP := out.(*endpointEnd)
	switch {
	case inEP && outEP:
		return false
	case inEP || outEP:
		r.userspace.Add(1)
	default:
		r.spliced.Add(1)
	}
	p.up = half{src: in, dst: out, prefix: inPrefix}
	p.down = half{src: out, dst: in, prefix: outPrefix}
	p.start()
	return true
}

// newEnd returns nil for a connection that it cannot work on.
func (r *Relay) newEnd(p *pair, c net.Conn) end {
	switch c := c.(type) {
	case Endpoint:
		return &endpointEnd{signals: signals{task: &p.task}, ep: c}
	case Socket:
		return &socketEnd{signals: signals{task: &p.task}, conn: c, fd: c.Descriptor(), loop: r.loop}
	case *net.TCPConn:
		if fd, ok := descriptor(c); ok {
			return &socketEnd{signals: signals{task: &p.task}, conn: c, fd: fd, loop: r.loop}
		}
	}
	return nil
}

func (p *pair) start() {
	p.task.Init(p.r.loop, p.run)
	in, out := p.up.src, p.up.dst
	// Both are almost certainly writable. If not, the first write returns EAGAIN.
	in.sig().writable, out.sig().writable = true, true
	p.f.OnKill(func() {
		p.killed.Store(true)
		p.task.Schedule()
	})
	p.task.Schedule()
}

// run moves what can be moved, and ends the pair if both directions have ended.
func (p *pair) run() {
	in, out := p.up.src, p.up.dst
	if !p.watched {
		// Here, since a watch can schedule the task at once, and the task may
		// close both ends.
		p.watched = true
		if errors.Join(in.watch(), out.watch()) != nil {
			p.killed.Store(true)
		}
	}
	if p.killed.Load() {
		p.end(true)
		return
	}
	in.collect()
	out.collect()
	if p.r.memory.buffers.Load() != p.buffers {
		p.resize()
	}
	s := p.r.scratch.Get().(*scratch)
	moved := int64(0)
	upErr := p.pump(&p.up, s, func(n int64) { moved += n; p.f.AddUp(n) })
	downErr := p.pump(&p.down, s, func(n int64) { moved += n; p.f.AddDown(n) })
	p.r.scratch.Put(s)
	p.moved += moved
	changed := p.noteWait(&p.up)
	changed = p.noteWait(&p.down) || changed
	if !p.proven && p.moved >= p.after {
		p.proven, changed = true, true
		p.r.proven.add(1)
	}
	if changed {
		p.resize()
	}
	p.task.SetHeavy(moved > smallMove)
	if moved > bulkMove {
		in.becomeBulk()
		out.becomeBulk()
	}
	if p.up.done {
		p.f.EndUp()
	}
	if p.down.done {
		p.f.EndDown()
	}
	switch {
	case fatal(upErr) || fatal(downErr) || in.fault() != nil || out.fault() != nil:
		// What had arrived before the reset was delivered above, if there was
		// room for it.
		p.end(true)
	case p.over():
		p.end(false)
	case errors.Join(in.await(!p.up.done, !p.down.done), out.await(!p.down.done, !p.up.done)) != nil:
		p.end(true)
	case upErr == errBudget || downErr == errBudget:
		p.task.Schedule()
	}
}

// noteWait has the relay know whether a direction waits, and reports whether
// that has changed.
func (p *pair) noteWait(h *half) bool {
	waiting := !h.dst.sig().writable
	if waiting == h.waiting {
		return false
	}
	h.waiting = waiting
	if waiting {
		p.r.waiting.add(1)
	} else {
		p.r.waiting.add(-1)
	}
	return true
}

// resize has both ends keep to the limits of today. It is called when these or
// what the flow may take of them change.
func (p *pair) resize() {
	p.buffers = p.r.memory.buffers.Load()
	b := *p.buffers
	p.after = max(p.after, b.provenAfter()) // buffers that were larger may be full
	waiting := p.up.waiting || p.down.waiting
	if !waiting {
		p.leave()
	} else if p.proven && !p.place {
		p.place = p.r.memory.takePlace(b.MaxProven)
	}
	switch {
	case !p.proven:
		b = b.fresh()
	case !waiting || p.place:
		b = b.proven()
	}
	p.up.src.setBuffers(b)
	p.up.dst.setBuffers(b)
}

// leave gives its place back.
func (p *pair) leave() {
	if p.place {
		p.place = false
		p.r.memory.places.Add(-1)
	}
}

func fatal(err error) bool { return err != nil && err != errBudget }

// pump moves bytes in one direction until either end has to be waited for,
// which is no error, or src has ended.
func (p *pair) pump(h *half, s *scratch, count func(int64)) error {
	if h.done {
		return nil
	}
	if err := h.pumpPrefix(count); err != nil || len(h.prefix) > 0 {
		return err
	}
	var err error
	switch src := h.src.(type) {
	case *endpointEnd:
		err = pumpOut(src, h.dst.(*socketEnd), s, count)
	case *socketEnd:
		switch dst := h.dst.(type) {
		case *endpointEnd:
			err = pumpIn(src, dst, count)
		case *socketEnd:
			err = p.r.pumpSplice(h, src, dst, count)
		}
	}
	if err == io.EOF {
		h.done = true
		if p.over() { // closing will send FIN
			return nil
		}
		err = h.dst.closeWrite()
	}
	return err
}

// over reports whether nothing is left to be moved, or to be waited for.
func (p *pair) over() bool {
	return p.up.done && p.down.done && p.up.src.settled() && p.up.dst.settled()
}

func (h *half) pumpPrefix(count func(int64)) error {
	for len(h.prefix) > 0 && h.dst.sig().writable {
		n, err := h.dst.tryWrite(h.prefix)
		if err == unix.EAGAIN {
			h.dst.sig().writable = false
			return nil
		}
		if err != nil {
			return err
		}
		count(int64(n))
		h.prefix = h.prefix[n:]
	}
	if len(h.prefix) == 0 {
		h.prefix = nil
	}
	return nil
}

// end closes both ends. With reset it sends RST to each, except, after a kill, to
// an end that has already got all bytes and the FIN.
func (p *pair) end(reset bool) {
	p.task.Stop()
	p.leave()
	if p.proven {
		p.r.proven.add(-1)
	}
	for _, h := range []*half{&p.up, &p.down} {
		if h.waiting {
			p.r.waiting.add(-1)
		}
		if h.pipe != nil {
			h.pipe.close()
			h.pipe = nil
		}
		if reset && !(p.killed.Load() && h.delivered()) {
			h.dst.reset()
		} else {
			h.dst.close()
		}
	}
	p.r.ended(p.f)
}
