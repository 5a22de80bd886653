package relay

import (
	"io"

	"golang.org/x/sys/unix"
)

// endpointEnd is an end inside the userspace stack.
type endpointEnd struct {
	signals
	ep Endpoint
}

func (e *endpointEnd) sig() *signals { return &e.signals }

func (e *endpointEnd) watch() error {
	e.ep.Watch(e.notify)
	return nil
}

// becomeBulk and await do nothing: notifications cost no thread's waking.
func (e *endpointEnd) becomeBulk()                  {}
func (e *endpointEnd) await(read, write bool) error { return nil }

func (e *endpointEnd) collect() { e.take(e.events.Swap(0)) }

func (e *endpointEnd) fault() error {
	if !e.broken {
		return nil
	}
	// A connection that both sides have closed hangs up as well.
	e.broken = false
	return e.ep.Broken()
}

func (e *endpointEnd) tryWrite(b []byte) (int, error) { return e.ep.TryWrite(b) }

func (e *endpointEnd) closeWrite() error { return e.ep.CloseWrite() }

func (e *endpointEnd) setBuffers(b Buffers) {
	send := b.Stack
	if b.send > 0 {
		send = min(send, b.send)
	}
	e.ep.SetBuffers(b.Stack, send)
}

func (e *endpointEnd) settled() bool { return e.ep.Settled() }

func (e *endpointEnd) close() {
	e.ep.Unwatch()
	e.ep.Close()
}

func (e *endpointEnd) reset() {
	e.ep.Unwatch()
	e.ep.Reset()
}

// pumpOut sends what the stack has received to a socket: from the stack's own
// memory, and without its lock, which Peek has given back by then.
func pumpOut(src *endpointEnd, dst *socketEnd, s *scratch, count func(int64)) error {
	for moved := 0; src.readable && dst.writable; {
		bufs, n, err := src.ep.Peek(s.bufs[:0])
		if err == unix.EAGAIN {
			src.readable = false
			return nil
		}
		if err != nil {
			return err
		}
		bufs, n = dst.fit(bufs, n)
		w, err := s.writev(dst, bufs)
		if err == unix.EAGAIN {
			dst.writable = false
			return nil
		}
		if err != nil {
			return err
		}
		if err := src.ep.Discard(w); err != nil {
			return err
		}
		count(int64(w))
		if w < n {
			dst.writable = false
			return nil
		}
		if moved += w; moved >= budget {
			return errBudget
		}
	}
	return nil
}

// maxReceive bounds one ReceiveFrom: enough for several super-packets, not so
// much that they wait for each other.
const maxReceive = 256 << 10

// pumpIn receives from a socket into the memory that the stack sends from.
func pumpIn(src *socketEnd, dst *endpointEnd, count func(int64)) error {
	for moved := 0; src.readable && dst.writable; {
		n, err := unix.IoctlGetInt(src.fd, unix.SIOCINQ)
		if err != nil {
			return err
		}
		if n == 0 {
			src.readable = false
			if !src.hangup {
				return nil
			}
			return src.peekEnd()
		}
		w, err := dst.ep.ReceiveFrom(src.fd, min(n, maxReceive))
		if err == unix.EAGAIN {
			dst.writable = false
			return nil
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		count(int64(w))
		if w == n && n < smallMove && !src.hangup && !src.urgent {
			src.readable = false // what comes after it is a new event
		}
		if moved += w; moved >= budget {
			return errBudget
		}
	}
	return nil
}
