//go:build !linux

package netstack

import "errors"

// receiver would read a socket: see receiver_linux.go.
type receiver struct {
	fd, left int
	err      error
}

func (r *receiver) Len() int { return r.left }

func (r *receiver) Read([]byte) (int, error) {
	r.err = errors.ErrUnsupported
	return 0, r.err
}
