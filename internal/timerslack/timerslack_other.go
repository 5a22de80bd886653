//go:build !linux

// Package timerslack makes the Go runtime's monitor sleep longer, on Linux.
package timerslack

// Raise does nothing here.
func Raise() {}
