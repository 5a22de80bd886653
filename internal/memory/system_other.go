//go:build !linux

package memory

import "errors"

// Total is not known on this system.
func Total() (int64, error) { return 0, errors.ErrUnsupported }

// TCP is not known on this system.
func TCP() int64 { return 0 }
