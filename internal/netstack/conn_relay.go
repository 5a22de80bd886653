package netstack

import (
	"fmt"
	"io"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"netstackd/internal/epoll"
)

// relayState is what the zero-copy methods of a Conn work with, kept in it so
// that they need not allocate.
type relayState struct {
	entry  waiter.Entry
	notify func(events uint32)
	peek   peeker
	drop   dropper
	recv   socketPayload
}

// Watch makes notify the listener to the connection's readiness, in bits of
// epoll (EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLLHUP, EPOLLERR), each reported when it
// becomes true. It runs under the endpoint's lock: it must not block, nor call
// the connection. What is ready already is reported before Watch returns.
func (c *Conn) Watch(notify func(events uint32)) {
	c.relay.notify = notify
	c.relay.entry.Init(c, waiter.ReadableEvents|waiter.WritableEvents|waiter.EventHUp|waiter.EventErr|waiter.EventRdHUp)
	c.wq.EventRegister(&c.relay.entry)
	c.NotifyEvent(c.ep.Readiness(waiter.ReadableEvents | waiter.WritableEvents | waiter.EventHUp | waiter.EventErr))
}

// Unwatch ends Watch. No notify runs after it has returned.
func (c *Conn) Unwatch() { c.wq.EventUnregister(&c.relay.entry) }

// NotifyEvent implements waiter.EventListener.
func (c *Conn) NotifyEvent(mask waiter.EventMask) {
	var ev uint32
	if mask&waiter.ReadableEvents != 0 {
		ev |= epoll.In
	}
	if mask&waiter.WritableEvents != 0 {
		ev |= epoll.Out
	}
	if mask&waiter.EventRdHUp != 0 {
		ev |= epoll.RdHUp
	}
	if mask&waiter.EventHUp != 0 {
		ev |= epoll.HUp
	}
	if mask&waiter.EventErr != 0 {
		ev |= epoll.Err
	}
	if ev != 0 {
		c.relay.notify(ev)
	}
}

// Peek appends slices of the received, unread bytes to bufs, until there are
// cap(bufs) of them, and returns them with their total length. They stay valid
// until Discard, Close or Reset, none of which may run while they are in a
// system call: their memory goes back to a pool that other connections use.
// The error is EAGAIN when there is nothing yet, io.EOF after FIN, or why the
// connection broke.
func (c *Conn) Peek(bufs [][]byte) ([][]byte, int, error) {
	p := &c.relay.peek
	p.bufs = bufs
	res, terr := c.ep.Read(p, tcpip.ReadOptions{Peek: true})
	bufs, p.bufs = p.bufs, nil
	if res.Count > 0 {
		return bufs, res.Count, nil
	}
	return bufs, 0, c.readError(terr)
}

// Discard takes n bytes that Peek has shown out of the receive queue. After an
// error the connection can't go on: its next bytes would be the wrong ones.
func (c *Conn) Discard(n int) error {
	c.relay.drop = dropper(n)
	c.ep.Read(&c.relay.drop, tcpip.ReadOptions{})
	if left := int(c.relay.drop); left > 0 {
		return fmt.Errorf("netstack: %d of %d bytes that were shown are not in the receive queue", left, n)
	}
	c.ep.ModerateRecvBuf(n)
	return nil
}

func (c *Conn) readError(terr tcpip.Error) error {
	switch terr.(type) {
	case *tcpip.ErrWouldBlock:
		return syscall.EAGAIN
	case *tcpip.ErrClosedForReceive:
		if err := c.fatal(); err != nil {
			return err
		}
		return io.EOF
	}
	return c.fail(terr)
}

// ReceiveFrom moves up to max bytes, which the caller knows to be there, from
// a non-blocking socket into the send queue, straight into the memory that the
// stack sends from. It returns EAGAIN when the send queue is full and nothing
// was taken from the socket. After any other error the flow can't go on: the
// connection or the socket broke, or bytes were taken that are not queued.
func (c *Conn) ReceiveFrom(fd, max int) (int, error) {
	r := &c.relay.recv
	r.fd, r.left, r.err = fd, max, nil
	n, terr := c.ep.Write(r, tcpip.WriteOptions{})
	taken := max - r.left
	switch {
	case r.err == syscall.EAGAIN: // which would be taken for a full queue
		return int(n), fmt.Errorf("netstack: the socket holds %d of the %d bytes that it was known to", taken, max)
	case r.err != nil:
		return int(n), r.err
	case int(n) == taken && terr == nil:
		return taken, nil
	case taken == 0:
		return 0, c.writeError(terr)
	}
	if err := c.fatal(); err != nil { // broke in the meantime
		return int(n), err
	}
	return int(n), fmt.Errorf("netstack: %d of %d bytes from the socket were queued", n, taken)
}

// TryWrite queues as much of b as there is room for; EAGAIN when none.
func (c *Conn) TryWrite(b []byte) (int, error) {
	p := slicePayload(b)
	n, terr := c.ep.Write(&p, tcpip.WriteOptions{})
	if terr == nil {
		return int(n), nil
	}
	return 0, c.writeError(terr)
}

func (c *Conn) writeError(terr tcpip.Error) error {
	if _, full := terr.(*tcpip.ErrWouldBlock); full {
		return syscall.EAGAIN
	}
	if err := c.fatal(); err != nil {
		return err
	}
	return c.fail(terr)
}

// Settled reports, once both sides have closed, whether all that we sent has
// been acknowledged, FIN included.
func (c *Conn) Settled() bool {
	switch tcp.EndpointState(c.ep.State()) {
	case tcp.StateTimeWait, tcp.StateClose, tcp.StateError:
		return true
	}
	return false
}

// Broken returns why the connection broke, or nil.
func (c *Conn) Broken() error { return c.fatal() }

// peeker collects the slices that an endpoint shows it.
type peeker struct{ bufs [][]byte }

func (p *peeker) Write(b []byte) (int, error) {
	if len(p.bufs) == cap(p.bufs) {
		return 0, io.ErrShortWrite
	}
	p.bufs = append(p.bufs, b)
	return len(b), nil
}

// dropper takes a number of bytes and no more.
type dropper int

func (d *dropper) Write(b []byte) (int, error) {
	n := min(len(b), int(*d))
	*d -= dropper(n)
	if n < len(b) {
		return n, io.ErrShortWrite
	}
	return n, nil
}
