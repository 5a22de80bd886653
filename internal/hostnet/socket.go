package hostnet

import (
	"fmt"
	"syscall"
)

// SocketError says that a socket could not be set up. It wraps the errno.
type SocketError struct {
	Field   string // of Config, "" for none
	Setting string // what was set, and its value
	Mend    string // what to do, in one line
	Err     error
}

func (e *SocketError) Error() string {
	return fmt.Sprintf("hostnet: %s: %v: %s", e.Setting, e.Err, e.Mend)
}

// ConfigField returns the name of the field that asked for the setting.
func (e *SocketError) ConfigField() string { return e.Field }

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
