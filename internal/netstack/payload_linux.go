package netstack

import (
	"io"

	"golang.org/x/sys/unix"
)

// socketPayload is a tcpip.Payloader that reads a socket. gVisor asks for exactly
// Len bytes, and asks again without end if it gets fewer. So Len is what the
// kernel says is there. A short read is an error, which breaks the flow instead
// of losing some of its bytes.
type socketPayload struct {
	fd, left int
	err      error
}

func (r *socketPayload) Len() int { return r.left }

func (r *socketPayload) Read(b []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	if len(b) == 0 { // gVisor asks whether this is the end
		return 0, nil
	}
	b = b[:min(len(b), r.left)]
	for {
		n, err := unix.Read(r.fd, b)
		// EAGAIN while there are bytes: a pending signal before urgent data.
		if err == unix.EINTR || err == unix.EAGAIN && r.there() {
			continue
		}
		if n <= 0 {
			if err == nil {
				err = io.ErrUnexpectedEOF
			}
			r.err = err
			return 0, err
		}
		r.left -= n
		return n, nil
	}
}

func (r *socketPayload) there() bool {
	n, err := unix.IoctlGetInt(r.fd, unix.SIOCINQ)
	return err == nil && n >= r.left
}
