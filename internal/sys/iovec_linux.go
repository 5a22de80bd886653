package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// SetIovec makes v stand for b.
func SetIovec(v *unix.Iovec, b []byte) {
	v.Base = unsafe.SliceData(b)
	v.SetLen(len(b))
}

// Writev is writev(2), repeated when a signal interrupts it. There is at least
// one element.
func Writev(fd int, iov []unix.Iovec) (int, unix.Errno) {
	for {
		n, _, errno := unix.Syscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)))
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}
