package relay

import (
	"io"
	"math"
	"net"

	"golang.org/x/sys/unix"

	"netstackd/internal/epoll"
	"netstackd/internal/sys"
)

// socketEnd is an end in the host's kernel.
type socketEnd struct {
	signals
	conn net.Conn // nil once fd is our own
	fd   int      // open until close or reset
	loop *epoll.Loop
	w    *epoll.Watch

	sized bool // setBuffers was called
	most  int  // what it has set, or 0

	bulk   bool   // see becomeBulk
	armed  uint32 // what a bulk end's watch is armed for
	hungUp bool   // both directions were closed, if not all was read
}

func descriptor(c *net.TCPConn) (fd int, ok bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, false
	}
	err = raw.Control(func(d uintptr) { fd = int(d) })
	return fd, err == nil
}

func (e *socketEnd) sig() *signals { return &e.signals }

// socketEvents are all that an end may want to know.
const socketEvents = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLPRI

// watch adds the descriptor to our loop. Go's poller would hold memory for it and
// wake a thread for each event, so watch takes it out of there. The only way is to
// work on a duplicate and close the original. When no descriptor is free for the
// duplicate, the original stays in both pollers.
//
// SO_OOBINLINE: urgent data would otherwise block splice, and hide what follows it
// from SIOCINQ (tcp(7)). If the option fails, such a flow is slower.
func (e *socketEnd) watch() (err error) {
	if s, ok := e.conn.(Socket); ok && s.Detach() {
		e.conn = nil
	} else if fd, err := unix.FcntlInt(uintptr(e.fd), unix.F_DUPFD_CLOEXEC, 0); err == nil {
		e.conn.Close()
		e.conn, e.fd = nil, fd
	}
	_ = unix.SetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1)
	e.w, err = e.loop.Add(e.fd, socketEvents, e.task)
	return err
}

// becomeBulk is for an end that moves many bytes. While its task works, more data
// and more room keep coming, and each event would wake a thread. From now on the
// task arms the events that it waits for, each time that it is done.
func (e *socketEnd) becomeBulk() { e.bulk = !e.hungUp }

// await has a bulk end's watch wait for what its flow can't go on without: that
// there is something to read, or room.
func (e *socketEnd) await(read, write bool) error {
	if !e.bulk {
		return nil
	}
	events := uint32(unix.EPOLLERR) // comes anyway, and tells it from nothing
	if read && !e.readable {
		events |= unix.EPOLLIN | unix.EPOLLRDHUP
		if !e.urgent {
			events |= unix.EPOLLPRI
		}
	}
	if write && !e.writable {
		events |= unix.EPOLLOUT
	}
	if events == e.armed {
		return nil
	}
	e.armed = events
	return e.w.Arm(events)
}

func (e *socketEnd) collect() {
	if e.w == nil {
		return
	}
	events := e.w.Events()
	if events == 0 {
		return
	}
	e.armed = 0
	if events&unix.EPOLLHUP != 0 && !e.hungUp {
		// It lasts, and an armed watch would tell of it again and again.
		e.hungUp = true
		if e.bulk {
			e.bulk = false
			_ = e.w.Disarm() // fails only when the loop is closed
		}
	}
	e.take(events)
}

func (e *socketEnd) fault() error {
	if !e.broken {
		return nil
	}
	// Closed in both directions hangs up as well, without an error. Reading the
	// error clears it.
	e.broken = false
	n, err := unix.GetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if n != 0 {
		return unix.Errno(n)
	}
	return nil
}

func (e *socketEnd) tryWrite(b []byte) (int, error) {
	for {
		n, err := unix.Write(e.fd, b)
		if err != unix.EINTR {
			return n, err
		}
	}
}

func (e *socketEnd) closeWrite() error {
	err := unix.Shutdown(e.fd, unix.SHUT_WR)
	if err == unix.ENOTCONN { // reset in the meantime: its event is on the way
		return nil
	}
	return err
}

// peekEnd tells FIN from an error on a socket that has nothing left to read.
func (e *socketEnd) peekEnd() error {
	var b [1]byte
	n, _, err := unix.Recvfrom(e.fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	switch {
	case err == unix.EAGAIN || err == unix.EINTR || n > 0:
		e.readable = true
		if err == unix.EAGAIN {
			e.readable, e.hangup = false, false
		}
		return nil
	case err != nil:
		return err
	}
	return io.EOF
}

// setBuffers sets what the kernel lets the socket queue, and ends its own tuning
// with that until there is no limit any more: a receive buffer grows as it is
// read, and has grown by the time that its reader stands still. An error leaves
// the socket as it is: it carries the flow all the same.
func (e *socketEnd) setBuffers(b Buffers) {
	first := !e.sized
	e.sized = true
	if b.Socket == e.most {
		return
	}
	e.most = b.Socket
	if b.Socket == 0 {
		_ = unix.SetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_BUF_LOCK, 0) // Linux 5.14
		_ = unix.SetsockoptInt(e.fd, unix.IPPROTO_TCP, unix.TCP_WINDOW_CLAMP, math.MaxInt32/2)
		return
	}
	setBuffer(e.fd, unix.SO_SNDBUF, unix.SO_SNDBUFFORCE, b.Socket)
	// What the peer was offered room for may be under way, and would be dropped
	// by a smaller buffer. Then only what it is offered from now on is less.
	receive := b.Socket
	if size, err := unix.GetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_RCVBUF); err == nil && !first {
		receive = max(receive, size)
	}
	setBuffer(e.fd, unix.SO_RCVBUF, unix.SO_RCVBUFFORCE, receive)
	_ = unix.SetsockoptInt(e.fd, unix.IPPROTO_TCP, unix.TCP_WINDOW_CLAMP, b.Socket/2) // with what the kernel counts besides
}

// setBuffer sets a socket's buffer to a size, as the kernel counts it.
func setBuffer(fd, option, force, bytes int) {
	bytes /= 2                                                        // which the kernel doubles (socket(7))
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, bytes) != nil { // privileged: beyond net.core.rmem_max
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, bytes)
	}
}

// fit cuts slices of n bytes down to half of what the socket may queue, if that is
// less: the kernel takes a whole write while the queue is below its limit.
func (e *socketEnd) fit(bufs [][]byte, n int) ([][]byte, int) {
	most := e.most / 2
	if most == 0 || n <= most {
		return bufs, n
	}
	left := most
	for i, b := range bufs {
		if len(b) >= left {
			bufs[i] = b[:left]
			return bufs[:i+1], most
		}
		left -= len(b)
	}
	return bufs, n
}

// settled is always so: the kernel delivers what it has, with us or without.
func (e *socketEnd) settled() bool { return true }

func (e *socketEnd) close() {
	if e.w != nil {
		e.w.Forget()
	}
	if e.conn != nil {
		e.conn.Close()
	} else {
		unix.Close(e.fd)
	}
}

func (e *socketEnd) reset() {
	_ = sys.ResetOnClose(e.fd)
	e.close()
}

// maxIovecs is how many slices one writev takes.
const maxIovecs = 64

// scratch is the working space of one run.
type scratch struct {
	bufs [maxIovecs][]byte
	iovs [maxIovecs]unix.Iovec
}

// segmentMax is about the most that the kernel keeps in one segment.
const segmentMax = 64 << 10

// writev writes the slices to an end, and forgets them.
func (s *scratch) writev(e *socketEnd, bufs [][]byte) (int, error) {
	for i, b := range bufs {
		sys.SetIovec(&s.iovs[i], b)
	}
	flags := unix.MSG_NOSIGNAL
	if e.most > 0 && e.most < 4*segmentMax {
		// The kernel fills the last segment up without a look at the queue's limit.
		// This ends the segment, so that the next write meets the limit.
		flags |= unix.MSG_EOR
	}
	n, errno := sys.Sendv(e.fd, s.iovs[:len(bufs)], flags)
	clear(s.iovs[:len(bufs)])
	clear(bufs)
	if errno != 0 {
		return 0, errno
	}
	return n, nil
}
