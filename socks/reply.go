package socks

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"

	"netstackd/socks/wire"
)

// errno returns what the reply means to a dialer, or 0 for a general failure.
func errno(r wire.Reply) syscall.Errno {
	switch r {
	case wire.ReplyNotAllowed:
		return syscall.EACCES
	case wire.ReplyNetworkUnreachable:
		return syscall.ENETUNREACH
	case wire.ReplyHostUnreachable:
		return syscall.EHOSTUNREACH
	case wire.ReplyConnectionRefused:
		return syscall.ECONNREFUSED
	case wire.ReplyTTLExpired:
		return syscall.ETIMEDOUT
	case wire.ReplyCommand:
		return syscall.EOPNOTSUPP
	case wire.ReplyAddressType:
		return syscall.EAFNOSUPPORT
	}
	return 0
}

// ReplyError is a SOCKS server's refusal. It wraps the matching syscall.Errno:
// errors.Is(err, syscall.ECONNREFUSED) holds for reply 5, and so on.
type ReplyError struct{ Reply wire.Reply }

func (e *ReplyError) Error() string { return "socks: server says: " + e.Reply.String() }

// Unwrap returns the matching errno, or nil for a general failure.
func (e *ReplyError) Unwrap() error {
	if n := errno(e.Reply); n != 0 {
		return n
	}
	return nil
}

// ReplyFor returns the reply for an error, by its real cause. Of several causes,
// as Happy Eyeballs joins them, the most specific one decides: a host that refused
// the connection was reached.
func ReplyFor(err error) wire.Reply {
	var dns *net.DNSError
	var addr *net.AddrError
	switch {
	case err == nil:
		return wire.ReplySucceeded
	case is(err, syscall.ECONNREFUSED):
		return wire.ReplyConnectionRefused
	case is(err, ErrRule, syscall.EACCES, syscall.EPERM):
		return wire.ReplyNotAllowed
	case errors.As(err, &dns), errors.As(err, &addr), is(err, wire.ErrName):
		return wire.ReplyHostUnreachable
	case is(err, syscall.EHOSTUNREACH, syscall.EHOSTDOWN):
		return wire.ReplyHostUnreachable
	case is(err, syscall.ENETUNREACH, syscall.ENETDOWN, syscall.EADDRNOTAVAIL):
		return wire.ReplyNetworkUnreachable
	case is(err, syscall.ETIMEDOUT, context.DeadlineExceeded, os.ErrDeadlineExceeded):
		return wire.ReplyTTLExpired
	case is(err, wire.ErrAddrType, syscall.EAFNOSUPPORT):
		return wire.ReplyAddressType
	case is(err, errors.ErrUnsupported):
		return wire.ReplyCommand
	}
	return wire.ReplyGeneralFailure
}

func is(err error, targets ...error) bool {
	for _, t := range targets {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}
