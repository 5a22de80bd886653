package socks

import (
	"errors"
	"strings"
)

// Why a request is refused. Match them with errors.Is.
var (
	ErrAuth   = errors.New("socks: authentication refused")
	ErrMethod = errors.New("socks: no acceptable authentication method")
	ErrLimit  = errors.New("socks: no more flows are taken")
	ErrRule   = errors.New("socks: not allowed by rule")
)

// What a server does that leaves a request without an answer. Match them with
// errors.Is.
var (
	ErrUnreached = errors.New("socks: does not answer to connections")
	ErrSilent    = errors.New("socks: accepts connections but does not answer")
	ErrHungUp    = errors.New("socks: closes connections before its answer is complete")
)

// OpError is the error of an operation through an upstream. Its cause is a
// *ReplyError or *HTTPError when the upstream itself answered, and otherwise
// what went wrong on the way to it.
type OpError struct {
	Op     string // "connect", "bind" or "associate"
	Addr   string // the destination, host:port; empty for "associate"
	Server string // the upstream, without its credentials
	Err    error
}

func (e *OpError) Error() string {
	var b strings.Builder
	b.WriteString("socks: " + e.Op)
	if e.Addr != "" {
		b.WriteString(" " + e.Addr)
	}
	b.WriteString(" through " + e.Server + ": ")
	b.WriteString(strings.TrimPrefix(e.Err.Error(), "socks: "))
	return b.String()
}

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }

// Timeout reports whether the cause is a timeout, for net.Error.
func (e *OpError) Timeout() bool {
	var t interface{ Timeout() bool }
	return errors.As(e.Err, &t) && t.Timeout()
}

// Temporary is there for net.Error and reports false.
func (e *OpError) Temporary() bool { return false }
