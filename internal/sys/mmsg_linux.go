package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Mmsghdr is struct mmsghdr of sendmmsg(2) and recvmmsg(2).
type Mmsghdr struct {
	Hdr unix.Msghdr
	N   uint32 // bytes that were sent or received
}

// Sendmmsg sends messages, of which there is at least one, and returns how many
// it has sent. The error is that of the first message that was not sent.
func Sendmmsg(fd int, msgs []Mmsghdr, flags int) (int, unix.Errno) {
	return mmsg(unix.SYS_SENDMMSG, fd, msgs, flags)
}

// Recvmmsg receives messages into msgs, which is not empty, and returns how many.
func Recvmmsg(fd int, msgs []Mmsghdr, flags int) (int, unix.Errno) {
	return mmsg(unix.SYS_RECVMMSG, fd, msgs, flags)
}

func mmsg(trap uintptr, fd int, msgs []Mmsghdr, flags int) (int, unix.Errno) {
	n, _, errno := unix.Syscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), uintptr(flags), 0, 0)
	return int(n), errno
}
