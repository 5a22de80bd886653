package hostnet

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// TCPConn is a connection to a literal address, made with no more system calls
// than it takes. It is to net.Conn what a *net.TCPConn is; Descriptor is for
// those who move its bytes themselves.
type TCPConn struct {
	file          *os.File // non-blocking, in the runtime's poller
	raw           syscall.RawConn
	fd            int // file's
	local, remote netip.AddrPort
	closed        atomic.Bool
}

// Descriptor returns the connection's file descriptor, non-blocking and valid
// until Close.
func (c *TCPConn) Descriptor() int { return c.fd }

// Read implements net.Conn.
func (c *TCPConn) Read(b []byte) (int, error) {
	n, err := c.file.Read(b)
	return n, c.opError("read", err)
}

// Write implements net.Conn.
func (c *TCPConn) Write(b []byte) (int, error) {
	n, err := c.file.Write(b)
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
	if c.closed.Load() {
		err = net.ErrClosed
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// Close implements net.Conn.
func (c *TCPConn) Close() error {
	if !c.closed.CompareAndSwap(false, true) {
		return c.opError("close", net.ErrClosed)
	}
	if err := c.file.Close(); err != nil {
		return &net.OpError{Op: "close", Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
	}
	return nil
}

// LocalAddr implements net.Conn. It is a *net.TCPAddr.
func (c *TCPConn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.local) }

// RemoteAddr implements net.Conn. It is a *net.TCPAddr.
func (c *TCPConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

// SetDeadline implements net.Conn.
func (c *TCPConn) SetDeadline(t time.Time) error { return c.opError("set", c.file.SetDeadline(t)) }

// SetReadDeadline implements net.Conn.
func (c *TCPConn) SetReadDeadline(t time.Time) error {
	return c.opError("set", c.file.SetReadDeadline(t))
}

// SetWriteDeadline implements net.Conn.
func (c *TCPConn) SetWriteDeadline(t time.Time) error {
	return c.opError("set", c.file.SetWriteDeadline(t))
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

// control makes a system call on a connection that isn't closed.
func (c *TCPConn) control(op string, call func(fd int) error) error {
	return c.opError(op, control(c.raw, call))
}

// SyscallConn implements syscall.Conn.
func (c *TCPConn) SyscallConn() (syscall.RawConn, error) { return c.raw, nil }
