package tun

import (
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// queue is one queue of the device: a non-blocking fd, and what its one reader
// and its many writers need.
type queue struct {
	*handle
	wakeup int // an eventfd, readable once the device closes
	reader reader

	_       [128]byte // the reader's words change with every read
	written struct{ packets, bytes, errors atomic.Uint64 }
}

// reader is the state of a queue's reads, which don't overlap.
type reader struct {
	iov   []unix.Iovec
	info  [infoLen]byte
	spill [1]byte // gets a byte only if a packet is longer than the buffers
	poll  [2]unix.PollFd

	packets, bytes, truncated atomic.Uint64
}

// readv reads one packet, waiting until there is one. The error is an errno or errClosed.
func (q *queue) readv(iov []unix.Iovec) (int, error) {
	n, errno := vectored(unix.SYS_READV, q.fd, iov)
	if errno == unix.EAGAIN {
		// Let whoever works on the packets read so far run on this thread
		// before it sleeps; the package documentation says what that saves.
		runtime.Gosched()
		n, errno = vectored(unix.SYS_READV, q.fd, iov)
	}
	for errno == unix.EAGAIN {
		if !q.wait(&q.reader.poll, unix.POLLIN) {
			return 0, errClosed
		}
		n, errno = vectored(unix.SYS_READV, q.fd, iov)
	}
	if errno != 0 {
		return 0, &ioError{"read", errno}
	}
	return n, nil
}

// writev writes one packet, waiting only if the fd has a limited send buffer and that is full.
func (q *queue) writev(iov []unix.Iovec) (int, error) {
	n, errno := vectored(unix.SYS_WRITEV, q.fd, iov)
	for errno == unix.EAGAIN {
		if !q.wait(new([2]unix.PollFd), unix.POLLOUT) {
			return 0, errClosed
		}
		n, errno = vectored(unix.SYS_WRITEV, q.fd, iov)
	}
	if errno != 0 {
		return 0, &ioError{"write", errno}
	}
	return n, nil
}

// wait blocks until the queue is ready for events or broken, and reports false when the
// device closes. The descriptors are scratch space.
func (q *queue) wait(fds *[2]unix.PollFd, events int16) bool {
	fds[0] = unix.PollFd{Fd: int32(q.fd), Events: events}
	fds[1] = unix.PollFd{Fd: int32(q.wakeup), Events: unix.POLLIN}
	for {
		_, err := unix.Poll(fds[:], -1)
		if err != unix.EINTR {
			return fds[1].Revents == 0
		}
	}
}
