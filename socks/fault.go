package socks

import (
	"context"
	"errors"
)

// serverError is an error of the way to a server, so that it is not taken for
// one of the destination's: it keeps its errno, and says whose.
type serverError struct{ err error }

func (e *serverError) Error() string { return "dial the upstream: " + e.err.Error() }
func (e *serverError) Unwrap() error { return e.err }

// Fault finds, in an error of a Dialer made by Via, what is wrong with an
// upstream whatever the destination: it can't be reached, wants other
// credentials, or speaks no SOCKS. Server is the upstream as in OpError. The
// cause names neither credentials nor the destination; nil = the upstream is
// not at fault. Nothing is known from a dial that was canceled, nor from a
// server that is silent or hangs up, which it may do for the destination.
func Fault(err error) (server string, cause error) {
	var op *OpError
	if !errors.As(err, &op) || errors.Is(err, context.Canceled) {
		return "", nil
	}
	var way *serverError
	switch {
	case errors.As(op.Err, &way):
		if server, cause = Fault(way.err); cause != nil { // of an upstream on the way to this one
			return server, cause
		}
		return op.Server, way.err
	case errors.Is(op.Err, ErrAuth), errors.Is(op.Err, ErrMethod), errors.Is(op.Err, ErrVersion):
		return op.Server, op.Err
	}
	return "", nil
}

// Silent returns the upstream that had taken a connection and not answered the
// request on it when the dial that failed with err ended; "" if that is not
// why it failed. Unlike Fault, it also judges dials that were canceled.
func Silent(err error) (server string) {
	var op *OpError
	if !errors.As(err, &op) {
		return ""
	}
	var way *serverError
	switch {
	case errors.As(op.Err, &way):
		return Silent(way.err)
	case errors.Is(op.Err, ErrSilent):
		return op.Server
	}
	return ""
}

// Answered reports whether a dial that ended with err, or with success, had an
// answer to its request.
func Answered(err error) bool { return answered(err) }
