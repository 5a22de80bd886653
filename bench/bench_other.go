//go:build !linux

package bench

import (
	"context"
	"errors"
)

// Run needs Linux.
func Run(context.Context, Config) (*Report, error) {
	return nil, errors.ErrUnsupported
}

// IsHelper is false.
func IsHelper() bool { return false }

// Main is never called.
func Main() int { return 1 }
