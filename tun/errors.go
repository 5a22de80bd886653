package tun

import (
	"errors"
	"fmt"
	"syscall"
)

var (
	// ErrGone is matched, with errors.Is, by the errors of a device whose
	// interface was deleted. On Linux they wrap EBADFD.
	ErrGone = errors.New("the interface was deleted")

	// ErrTruncated is wrapped by the error of a read that met a packet longer
	// than its buffers. They hold the start of it, and the next read gets the
	// next packet. It wraps EMSGSIZE, for those who don't import this package.
	ErrTruncated = fmt.Errorf("%w: packet longer than the buffers", syscall.EMSGSIZE)
)
