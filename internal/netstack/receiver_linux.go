package netstack

import (
	"io"

	"golang.org/x/sys/unix"
)

// receiver is a tcpip.Payloader that reads a socket. gVisor asks for exactly
// Len bytes and asks again for ever when it gets fewer, so Len is what the
// kernel says is there, and coming up short is an error, which breaks the
// flow rather than lose bytes of it.
type receiver struct {
	fd, left int
	err      error
}

func (r *receiver) Len() int { return r.left }

func (r *receiver) Read(b []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	if len(b) == 0 { // gVisor asks so whether this is the end
		return 0, nil
	}
	b = b[:min(len(b), r.left)]
	for {
		n, err := unix.Read(r.fd, b)
		// EAGAIN with bytes there is a pending signal before urgent data, too.
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

func (r *receiver) there() bool {
	n, err := unix.IoctlGetInt(r.fd, unix.SIOCINQ)
	return err == nil && n >= r.left
}
