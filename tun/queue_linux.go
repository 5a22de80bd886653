package tun

import (
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// queue is one queue of the device: an fd in the runtime's poller, and the state
// of its reader and its writers.
type queue struct {
	file   *os.File
	conn   syscall.RawConn // file's
	reader reader

	_       [128]byte // keeps the writers' counters off the reader's cache lines
	written struct{ packets, bytes, errors atomic.Uint64 }
}

// newQueue takes over fd, which must already be attached to its interface. A
// descriptor that joins the poller before that reports an error for ever.
func newQueue(fd int) (*queue, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	q := &queue{file: os.NewFile(uintptr(fd), "tun")}
	q.reader.try, q.reader.once = q.reader.readv, func(fd uintptr) { q.reader.readv(fd) }
	conn, err := q.file.SyscallConn()
	if err == nil {
		err = q.file.SetDeadline(time.Time{}) // fails if the poller wouldn't take it
	}
	if err != nil {
		q.file.Close()
		return nil, err
	}
	q.conn = conn
	return q, nil
}

// reader is the state of a queue's reads, which don't overlap. It is not on the
// stack, because an argument of a RawConn escapes and would be allocated for
// each read.
type reader struct {
	iov     []unix.Iovec
	info    [infoLen]byte
	spill   [1]byte // gets a byte only if a packet is longer than the buffers
	yielded bool
	n       int
	errno   unix.Errno

	try  func(fd uintptr) bool // readv
	once func(fd uintptr)      // readv, whatever it returns

	packets, bytes, truncated atomic.Uint64
}

// readv reads one packet into r.iov and reports false if there is none.
func (r *reader) readv(fd uintptr) bool {
	r.n, r.errno = vectored(unix.SYS_READV, fd, r.iov)
	if r.errno == unix.EAGAIN && !r.yielded {
		// Let the goroutines that handle the packets read so far run first; see
		// "Waiting" in the package documentation.
		r.yielded = true
		runtime.Gosched()
		r.n, r.errno = vectored(unix.SYS_READV, fd, r.iov)
	}
	return r.errno != unix.EAGAIN
}

// read reads one packet into r.iov, waiting until there is one.
func (q *queue) read() (int, error) {
	r := &q.reader
	r.yielded = false
	if q.conn.Read(r.try) != nil {
		// The file is closed, or broken for the poller. The kernel's error says
		// which.
		if q.conn.Control(r.once) != nil {
			return 0, errClosed
		}
		if r.errno == unix.EAGAIN { // about to be deleted
			r.errno = unix.EBADFD
		}
	}
	if r.errno != 0 {
		return 0, &ioError{"read", r.errno}
	}
	return r.n, nil
}

// write writes the packet w.iov.
func (q *queue) write(w *writer) (int, error) {
	// Control lets several writers enter the kernel at once. Write would
	// serialize them.
	err := q.conn.Control(w.once)
	if err == nil && w.errno == unix.EAGAIN {
		// Possible only if the creator of the fd limited its send buffer.
		err = q.conn.Write(w.try)
	}
	switch {
	case err != nil && q.conn.Control(w.once) != nil:
		return 0, errClosed
	case w.errno != 0:
		return 0, &ioError{"write", w.errno}
	}
	return w.n, nil
}

// writer is the state of one write. The package pools them.
type writer struct {
	iov   []unix.Iovec
	n     int
	errno unix.Errno

	try  func(fd uintptr) bool
	once func(fd uintptr)
}

func newWriter() any {
	w := new(writer)
	w.try, w.once = w.writev, func(fd uintptr) { w.writev(fd) }
	return w
}

// writev writes the packet w.iov and reports false if there is no room for it.
func (w *writer) writev(fd uintptr) bool {
	w.n, w.errno = vectored(unix.SYS_WRITEV, fd, w.iov)
	return w.errno != unix.EAGAIN
}
