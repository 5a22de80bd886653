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

	// ErrTruncated is wrapped by the error of a read whose packet was longer than
	// its buffers. The buffers hold the start of the packet; the next read
	// returns the next packet. It wraps EMSGSIZE, for callers that do not import
	// this package.
	ErrTruncated = fmt.Errorf("%w: packet longer than the buffers", syscall.EMSGSIZE)
)

// ConfigError is an error that is about one field of Config.
type ConfigError struct {
	Field string
	Err   error
}

func (e *ConfigError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *ConfigError) Unwrap() error { return e.Err }

// ConfigField returns the name of the field.
func (e *ConfigError) ConfigField() string { return e.Field }
