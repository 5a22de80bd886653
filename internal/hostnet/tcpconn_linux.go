package hostnet

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// TCPConn is a connection to a literal address, made with no more system calls
// than it takes. It is to net.Conn what a *net.TCPConn is; Descriptor and Detach
// are for those who move its bytes themselves. The Go runtime polls it from the
// first call on that may wait, and if none does, never.
type TCPConn struct {
	fd            int // non-blocking
	local, remote netip.AddrPort

	mu     sync.Mutex
	file   *os.File // fd in the runtime's poller, or nil
	closed bool     // or detached
}

// Descriptor returns the connection's file descriptor, non-blocking and valid
// until Close.
func (c *TCPConn) Descriptor() int { return c.fd }

// Detach gives the descriptor away, which is then the caller's to close, and
// ends the connection otherwise. It reports whether it could: not if the runtime
// polls it, which there is no way out of but Close.
func (c *TCPConn) Detach() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.file != nil {
		return false
	}
	c.closed = true
	return true
}

// polled returns the connection as the runtime polls it.
func (c *TCPConn) polled() (*os.File, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, net.ErrClosed
	}
	if c.file == nil {
		c.file = os.NewFile(uintptr(c.fd), "tcp")
	}
	return c.file, nil
}

// Read implements net.Conn.
func (c *TCPConn) Read(b []byte) (n int, err error) {
	f, err := c.polled()
	if err == nil {
		n, err = f.Read(b)
	}
	return n, c.opError("read", err)
}

// Write implements net.Conn.
func (c *TCPConn) Write(b []byte) (n int, err error) {
	f, err := c.polled()
	if err == nil {
		n, err = f.Write(b)
	}
	return n, c.opError("write", err)
}

// opError gives an error of the file the shape that those of package net have.
func (c *TCPConn) opError(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		err = pe.Err
	}
	if errors.Is(err, os.ErrClosed) {
		err = net.ErrClosed
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// Close implements net.Conn.
func (c *TCPConn) Close() (err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		err = net.ErrClosed
	case c.file != nil:
		err = c.file.Close()
	default:
		err = unix.Close(c.fd)
	}
	c.closed = true
	return c.opError("close", err)
}

// LocalAddr implements net.Conn. It is a *net.TCPAddr.
func (c *TCPConn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.local) }

// RemoteAddr implements net.Conn. It is a *net.TCPAddr.
func (c *TCPConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

// SetDeadline implements net.Conn.
func (c *TCPConn) SetDeadline(t time.Time) error { return c.set((*os.File).SetDeadline, t) }

// SetReadDeadline implements net.Conn.
func (c *TCPConn) SetReadDeadline(t time.Time) error { return c.set((*os.File).SetReadDeadline, t) }

// SetWriteDeadline implements net.Conn.
func (c *TCPConn) SetWriteDeadline(t time.Time) error { return c.set((*os.File).SetWriteDeadline, t) }

func (c *TCPConn) set(deadline func(*os.File, time.Time) error, t time.Time) error {
	f, err := c.polled()
	if err == nil {
		err = deadline(f, t)
	}
	return c.opError("set", err)
}

// CloseWrite sends FIN.
func (c *TCPConn) CloseWrite() error {
	return c.control("close", func(fd int) error { return unix.Shutdown(fd, unix.SHUT_WR) })
}

// SetLinger is SO_LINGER, in seconds; 0 makes Close send RST (socket(7)), and
// less than 0 turns it off.
func (c *TCPConn) SetLinger(seconds int) error {
	l := unix.Linger{Linger: int32(max(seconds, 0))}
	if seconds >= 0 {
		l.Onoff = 1
	}
	return c.control("set", func(fd int) error { return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &l) })
}

// control makes a system call that doesn't wait on a connection that isn't
// closed.
func (c *TCPConn) control(op string, call func(fd int) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.opError(op, net.ErrClosed)
	}
	return c.opError(op, call(c.fd))
}

// SyscallConn implements syscall.Conn.
func (c *TCPConn) SyscallConn() (syscall.RawConn, error) {
	f, err := c.polled()
	if err != nil {
		return nil, c.opError("raw-control", err)
	}
	return f.SyscallConn()
}
