//go:build !unix

package socks

import "syscall"

func readFD(fd uintptr, b []byte) (int, error) {
	return syscall.Read(syscall.Handle(fd), b)
}

func pending(fd uintptr) bool { return true }
