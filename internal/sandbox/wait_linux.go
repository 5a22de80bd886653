package sandbox

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// hangTime is what the helper gets, beyond the grace that it was given, before
// it is taken for hung.
const hangTime = 10 * time.Second

// Wait returns when the command has ended, and all that it left behind: its
// exit status, or 128+n if signal n ended it. An error is an *Error with
// StatusFailed. When ctx ends, the command is ended first: SIGTERM, Config.Grace,
// SIGKILL. Dial works while Wait runs.
func (s *Sandbox) Wait(ctx context.Context) (int, error) {
	defer s.calls.end()
	stop := context.AfterFunc(ctx, func() {
		_ = s.conn.send(message{Op: opKill})
		s.conn.SetReadDeadline(time.Now().Add(s.cfg.Grace + hangTime))
	})
	defer stop()
	if s.signals != nil {
		defer s.passSignals()()
	}
	for {
		m, fds, err := s.conn.receive()
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				_ = s.helper.Process.Kill()
			}
			return StatusFailed, &Error{StatusFailed, s.died(err)}
		}
		switch m.Op {
		case opExited:
			closeAll(fds)
			return m.Status, nil
		case opStopped:
			closeAll(fds)
			if s.cfg.JobControl {
				// The shell waits for this process and not for the command.
				// SIGCONT ends this, for us and, from the shell or from
				// passSignals, for the command.
				stopSelf(unix.Signal(m.Signal))
			}
		case opDialed:
			s.calls.answer(m, fds)
		default:
			closeAll(fds)
		}
	}
}

// Dial connects inside the sandbox, from its own loopback: to a server of the
// command that listens on 127.0.0.1 there, and isn't reached through the TUN. It
// works while Wait runs. The network is tcp, tcp4, tcp6 or udp, and the connection
// a *net.TCPConn or *net.UDPConn. For udp the host may be empty (":53"): that of the
// server's socket, and ECONNREFUSED when no socket is bound to the port.
func (s *Sandbox) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	id, answer := s.calls.begin()
	if err := s.conn.send(message{Op: opDial, ID: id, Network: network, Address: address}); err != nil {
		s.calls.drop(id, answer)
		return nil, dialError(network, net.ErrClosed)
	}
	select {
	case c := <-answer:
		if c.err != nil {
			return nil, dialError(network, c.err)
		}
		return c.conn, nil
	case <-ctx.Done():
		s.calls.drop(id, answer)
		return nil, dialError(network, context.Cause(ctx))
	}
}

func dialError(network string, err error) error {
	return &net.OpError{Op: "dial", Net: network, Err: err}
}

// calls are the Dials that wait for an answer. The zero value is ready.
type calls struct {
	mu    sync.Mutex
	last  uint64
	wait  map[uint64]chan called
	ended bool
}

// called is a Dial's result.
type called struct {
	conn net.Conn
	err  error
}

// begin returns a call's number, and where its result will be.
func (c *calls) begin() (uint64, <-chan called) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last++
	answer := make(chan called, 1)
	if c.ended {
		answer <- called{err: net.ErrClosed}
		return c.last, answer
	}
	if c.wait == nil {
		c.wait = make(map[uint64]chan called)
	}
	c.wait[c.last] = answer
	return c.last, answer
}

// drop forgets a call. An answer that has come is closed, and so is a late one.
func (c *calls) drop(id uint64, answer <-chan called) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.wait, id)
	select {
	case r := <-answer:
		if r.conn != nil {
			r.conn.Close()
		}
	default:
	}
}

// answer delivers what opDialed brought.
func (c *calls) answer(m message, fds []int) {
	r := called{err: io.ErrUnexpectedEOF}
	if m.Text != "" {
		r.err = remoteError(m)
	} else if len(fds) == 1 {
		f := os.NewFile(uintptr(fds[0]), "dial")
		r.conn, r.err = net.FileConn(f)
		f.Close()
		fds = nil
	}
	closeAll(fds)
	c.mu.Lock()
	defer c.mu.Unlock()
	answer := c.wait[m.ID]
	delete(c.wait, m.ID)
	if answer != nil {
		answer <- r // under the lock, so that drop sees it; there is room
	} else if r.conn != nil {
		r.conn.Close()
	}
}

// end fails the calls that wait and those to come.
func (c *calls) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	for id, answer := range c.wait {
		answer <- called{err: net.ErrClosed}
		delete(c.wait, id)
	}
}
