package socks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"

	"netstackd/socks/wire"
)

// serverError is an error of the connection to a server. It keeps the errno and
// distinguishes the error from one of the destination.
type serverError struct{ err error }

func (e *serverError) Error() string { return "dial the upstream: " + e.err.Error() }
func (e *serverError) Unwrap() error { return e.err }

// Fault finds, in an error of a Dialer made by Via, what is wrong with an
// upstream whatever the destination: it can't be reached, wants other
// credentials, or speaks no SOCKS. Server is the upstream as in OpError. The
// cause names neither credentials nor the destination; nil = the upstream is
// not at fault. Nothing is known from a dial that was canceled. A server that is
// silent or hangs up may do that for the destination: see Unanswered.
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
		if _, cause = Unanswered(way.err); cause != nil {
			return "", nil
		}
		if is(way.err, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM) {
			return "", nil // this host's own lack
		}
		return op.Server, way.err
	case is(op.Err, ErrAuth, ErrMethod, wire.ErrVersion, wire.ErrUser):
		return op.Server, op.Err
	}
	return "", nil
}

// Unanswered finds, in an error of a Dialer made by Via, the upstream that took a
// connection and did not answer the request on it, and what it did instead:
// ErrSilent or ErrHungUp. It may do that for one destination only. The cause is
// nil if that is not why the dial failed.
func Unanswered(err error) (server string, cause error) {
	var op *OpError
	if !errors.As(err, &op) {
		return "", nil
	}
	var way *serverError
	switch {
	case errors.As(op.Err, &way):
		return Unanswered(way.err)
	case errors.Is(op.Err, ErrSilent):
		return op.Server, ErrSilent
	case errors.Is(op.Err, ErrHungUp):
		return op.Server, ErrHungUp
	}
	return "", nil
}

// hungUp returns ErrHungUp for the error of a connection that the server closed,
// and any other as it is.
func hungUp(err error) error {
	for _, closed := range []error{io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, closed) {
			return fmt.Errorf("%w: %w", ErrHungUp, syscall.ECONNRESET)
		}
	}
	return err
}

// Answered reports whether a dial that ended with err, or with success, had an
// answer to its request.
func Answered(err error) bool { return answered(err) }
