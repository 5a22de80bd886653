package netstack

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Conn is a TCP connection that ends in the stack. Its methods may be called
// concurrently as with any net.Conn; the zero-copy methods in conn_relay.go
// belong to one goroutine at a time.
type Conn struct {
	deadlines
	s     *Stack
	ep    tcpip.Endpoint
	wq    *waiter.Queue
	relay relayState

	closed  atomic.Bool
	finSent atomic.Bool

	receiveCut bool // SetBuffers has set the receive buffer's size

	errMu sync.Mutex
	err   error // the first fatal error; gVisor forgets it once it was read
}

var _ net.Conn = (*Conn)(nil)

// fail translates an endpoint's error, and remembers the first fatal one.
func (c *Conn) fail(terr tcpip.Error) error {
	err := Errno(terr)
	switch {
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.ETIMEDOUT),
		errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH),
		errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNABORTED):
		c.errMu.Lock()
		if c.err == nil {
			c.err = err
		}
		c.errMu.Unlock()
	}
	return err
}

// fatal returns why the connection broke, or nil while it has not. A reset
// after the peer's FIN leaves no error state, but the connection closed
// although we had yet to send our own FIN.
func (c *Conn) fatal() error {
	switch tcp.EndpointState(c.ep.State()) {
	case tcp.StateError:
	case tcp.StateClose:
		if c.finSent.Load() {
			return nil
		}
	default:
		return nil
	}
	c.errMu.Lock()
	defer c.errMu.Unlock()
	if c.err == nil {
		c.err = syscall.ECONNRESET
	}
	return c.err
}

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	w := tcpip.SliceWriter(b)
	n, err := c.wait(&c.read, waiter.ReadableEvents|waiter.EventHUp|waiter.EventErr, func() (int, error) {
		res, terr := c.ep.Read(&w, tcpip.ReadOptions{})
		if res.Count > 0 { // a full b is ErrBadBuffer as well
			return res.Count, nil
		}
		if _, eof := terr.(*tcpip.ErrClosedForReceive); eof {
			if err := c.fatal(); err != nil {
				return 0, err
			}
			return 0, io.EOF
		}
		return 0, c.fail(terr)
	})
	if n > 0 {
		c.ep.ModerateRecvBuf(n)
	}
	return n, c.opError("read", err)
}

// Write implements net.Conn.
func (c *Conn) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		var p slicePayload
		n, err := c.wait(&c.write, waiter.WritableEvents|waiter.EventHUp|waiter.EventErr, func() (int, error) {
			// Set on each try: gVisor empties it before it looks whether another
			// writer has left room.
			p = slicePayload(b[done:])
			n, terr := c.ep.Write(&p, tcpip.WriteOptions{})
			if terr != nil {
				if err := c.fatal(); err != nil {
					return 0, err
				}
				return 0, c.fail(terr)
			}
			return int(n), nil
		})
		done += n
		if err != nil {
			return done, c.opError("write", err)
		}
	}
	return done, nil
}

// wait repeats try until it does not ask to wait, the deadline passes or the
// connection is closed. Only a try that has to wait registers for events.
func (c *Conn) wait(d *deadline, mask waiter.EventMask, try func() (int, error)) (int, error) {
	expired := d.wait()
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	select {
	case <-expired:
		return 0, os.ErrDeadlineExceeded
	default:
	}
	n, err := try()
	if !errors.Is(err, errAgain) {
		return n, c.orClosed(err)
	}
	entry, ready := waiter.NewChannelEntry(mask)
	c.wq.EventRegister(&entry)
	defer c.wq.EventUnregister(&entry)
	for {
		n, err := try()
		if !errors.Is(err, errAgain) {
			return n, c.orClosed(err)
		}
		select {
		case <-ready:
			if c.closed.Load() {
				return 0, net.ErrClosed
			}
		case <-expired:
			return 0, os.ErrDeadlineExceeded
		}
	}
}

func (c *Conn) orClosed(err error) error {
	if err != nil && c.closed.Load() {
		return net.ErrClosed
	}
	return err
}

func (c *Conn) opError(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// Close implements net.Conn. What was written is still delivered.
func (c *Conn) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		c.ep.Close()
		c.wq.Notify(waiter.ReadableEvents | waiter.WritableEvents)
	}
	return nil
}

// CloseWrite sends FIN after all that was written.
func (c *Conn) CloseWrite() error {
	c.finSent.Store(true)
	return c.opError("close", Errno(c.ep.Shutdown(tcpip.ShutdownWrite)))
}

// Reset ends the connection with RST and drops what is queued.
func (c *Conn) Reset() {
	if c.closed.CompareAndSwap(false, true) {
		c.ep.Abort()
		c.ep.Close()
		c.wq.Notify(waiter.ReadableEvents | waiter.WritableEvents)
	}
}

// LocalAddr implements net.Conn: for a transparent connection, the destination
// that the application meant.
func (c *Conn) LocalAddr() net.Addr {
	a, err := c.ep.GetLocalAddress()
	if err != nil {
		return &net.TCPAddr{}
	}
	return net.TCPAddrFromAddrPort(addrPort(a))
}

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr {
	a, err := c.ep.GetRemoteAddress()
	if err != nil {
		return &net.TCPAddr{}
	}
	return net.TCPAddrFromAddrPort(addrPort(a))
}

// slicePayload is a tcpip.Payloader over bytes in memory.
type slicePayload []byte

func (p *slicePayload) Len() int { return len(*p) }

func (p *slicePayload) Read(b []byte) (int, error) {
	if len(*p) == 0 {
		return 0, io.EOF
	}
	n := copy(b, *p)
	*p = (*p)[n:]
	return n, nil
}
