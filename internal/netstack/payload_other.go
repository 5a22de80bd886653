//go:build !linux

package netstack

import "errors"

// socketPayload would read a socket: see payload_linux.go.
type socketPayload struct {
	fd, left int
	err      error
}

func (r *socketPayload) Len() int { return r.left }

func (r *socketPayload) Read([]byte) (int, error) {
	r.err = errors.ErrUnsupported
	return 0, r.err
}
