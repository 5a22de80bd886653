package tun

import "errors"

var (
	// ErrGone is wrapped by the errors of a device whose interface was deleted.
	ErrGone = errors.New("the interface was deleted")

	// ErrTruncated is wrapped by the error of a read that met a packet longer
	// than its buffers; they hold the start of it, and the next read gets the next packet.
	ErrTruncated = errors.New("packet longer than the buffers")
)
