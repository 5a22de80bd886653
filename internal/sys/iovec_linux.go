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

// Sendv sends on a stream socket with sendmsg(2), repeated when a signal interrupts
// it. There is at least one element.
func Sendv(fd int, iov []unix.Iovec, flags int) (int, unix.Errno) {
	m := unix.Msghdr{Iov: &iov[0]}
	m.SetIovlen(len(iov))
	for {
		n, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&m)), uintptr(flags))
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}
