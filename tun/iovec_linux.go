package tun

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// This package is public and imports no internal package, so its vectored
// system calls are its own and not those of internal/sys.

// maxIovecs is UIO_MAXIOV (linux/uio.h), the most that one call takes.
const maxIovecs = 1024

// appendIovec appends b unless it is empty.
func appendIovec(iov []unix.Iovec, b []byte) []unix.Iovec {
	if len(b) == 0 {
		return iov
	}
	v := unix.Iovec{Base: unsafe.SliceData(b)}
	v.SetLen(len(b))
	return append(iov, v)
}

// join returns bufs in at most limit pieces: it copies all that would be beyond
// into the last one.
func join(bufs [][]byte, limit int) [][]byte {
	if len(bufs) <= limit {
		return bufs
	}
	joined := append([][]byte(nil), bufs[:limit-1]...)
	var rest []byte
	for _, b := range bufs[limit-1:] {
		rest = append(rest, b...)
	}
	return append(joined, rest)
}

// vectored calls readv(2) or writev(2), again when a signal interrupts it.
func vectored(trap, fd uintptr, iov []unix.Iovec) (int, unix.Errno) {
	for {
		n, _, errno := unix.Syscall(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(iov))), uintptr(len(iov)))
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}
