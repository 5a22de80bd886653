//go:build !linux

package epoll

import (
	"context"
	"errors"
	"fmt"
)

type poller struct{}

// Watch is one descriptor's registration.
type Watch struct{}

var errUnsupported = fmt.Errorf("epoll: Linux only: %w", errors.ErrUnsupported)

// New returns errors.ErrUnsupported.
func New(int) (*Loop, error) { return nil, errUnsupported }

// Serve returns errors.ErrUnsupported.
func (l *Loop) Serve(context.Context) error { return errUnsupported }

// Close does nothing.
func (l *Loop) Close() error { return nil }

// Add returns errors.ErrUnsupported.
func (l *Loop) Add(int, uint32, *Task) (*Watch, error) { return nil, errUnsupported }

// Arm returns errors.ErrUnsupported.
func (w *Watch) Arm(uint32) error { return errUnsupported }

// Disarm returns errors.ErrUnsupported.
func (w *Watch) Disarm() error { return errUnsupported }

// Events returns nothing.
func (w *Watch) Events() uint32 { return 0 }

// Remove does nothing.
func (w *Watch) Remove() {}

// Forget does nothing.
func (w *Watch) Forget() {}
