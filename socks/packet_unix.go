//go:build unix

package socks

import "syscall"

// readFD reads from a connected, non-blocking socket.
func readFD(fd uintptr, b []byte) (int, error) { return syscall.Read(int(fd), b) }

// pending reports whether a socket has a datagram, or an error, to be read.
func pending(fd uintptr) bool {
	var none [1]byte
	_, _, err := syscall.Recvfrom(int(fd), none[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	return err != syscall.EAGAIN
}
