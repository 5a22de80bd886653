package hostnet

import (
	"fmt"
	"syscall"
)

// SocketError says that a socket could not be kept out of the TUN. It wraps
// the errno; Error names the flag that asked for it and the mend.
type SocketError struct {
	Flag string // the flag's name, with dashes
	Mend string // what to do, in one line
	Err  error
}

func (e *SocketError) Error() string {
	return fmt.Sprintf("hostnet: %s: %v: %s", e.Flag, e.Err, e.Mend)
}

// Unwrap returns the errno.
func (e *SocketError) Unwrap() error { return e.Err }

// control makes a system call on a descriptor that isn't closed.
func control(c syscall.RawConn, call func(fd int) error) error {
	var err error
	if cerr := c.Control(func(fd uintptr) { err = call(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}
