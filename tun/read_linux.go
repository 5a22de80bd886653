package tun

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reader holds what one read needs, so that reading doesn't allocate.
type reader struct {
	iov   []unix.Iovec
	info  [piLen]byte
	spill [1]byte // gets a byte only if the packet was longer than the buffers

	n     int
	errno unix.Errno
	try   func(fd uintptr) bool
	once  func(fd uintptr)

	packets, bytes, truncated atomic.Uint64
}

var errTruncated = fmt.Errorf("tun: read: %w", ErrTruncated)

func (r *reader) init() {
	r.try = func(fd uintptr) bool {
		r.n, r.errno = vectored(unix.SYS_READV, fd, r.iov)
		return r.errno != unix.EAGAIN
	}
	r.once = func(fd uintptr) { r.try(fd) }
}

// ReadPacket reads one packet of a queue into bufs, one after the other, and
// its virtio header into hdr, which is zeroed if there is none. It blocks
// until there is a packet and returns its length, without the header. Reads
// of one queue must not overlap. A packet longer than bufs fills them and
// gives [ErrTruncated]; a deleted interface gives [ErrGone], a closed device [os.ErrClosed].
func (d *Device) ReadPacket(queue int, hdr *[HdrLen]byte, bufs [][]byte) (int, error) {
	l := d.lines[queue]
	r := &l.reader
	iov := r.iov[:0]
	if d.format.info {
		iov = appendIovec(iov, r.info[:])
	}
	if d.format.vnet {
		iov = appendIovec(iov, hdr[:])
	} else {
		*hdr = [HdrLen]byte{}
	}
	room := 0
	for _, b := range bufs {
		iov = appendIovec(iov, b)
		room += len(b)
	}
	iov = appendIovec(iov, r.spill[:])
	r.iov = iov
	err := l.raw.Read(r.try)
	if err != nil && !d.closed.Load() {
		// The poller calls a queue without its interface broken, not why: ask.
		err = l.raw.Control(r.once)
	}
	clear(r.iov)
	switch {
	case err != nil:
		return 0, errClosed
	case r.errno != 0:
		return 0, &ioError{"read", r.errno}
	}
	n := max(0, r.n-d.format.size())
	r.packets.Add(1)
	if n > room {
		r.truncated.Add(1)
		r.bytes.Add(uint64(room))
		return room, errTruncated
	}
	r.bytes.Add(uint64(n))
	return n, nil
}

// appendIovec appends b unless it is empty.
func appendIovec(iov []unix.Iovec, b []byte) []unix.Iovec {
	if len(b) == 0 {
		return iov
	}
	v := unix.Iovec{Base: unsafe.SliceData(b)}
	v.SetLen(len(b))
	return append(iov, v)
}

// vectored is readv(2) or writev(2), made again when a signal cut in.
func vectored(trap, fd uintptr, iov []unix.Iovec) (int, unix.Errno) {
	for {
		n, _, errno := unix.Syscall(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(iov))), uintptr(len(iov)))
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}
