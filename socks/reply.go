package socks

import (
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"syscall"
)

// Reply is the REP field of a SOCKS5 server's answer.
type Reply byte

// The replies of RFC 1928 §6.
const (
	ReplySucceeded          Reply = 0
	ReplyGeneralFailure     Reply = 1
	ReplyNotAllowed         Reply = 2
	ReplyNetworkUnreachable Reply = 3
	ReplyHostUnreachable    Reply = 4
	ReplyConnectionRefused  Reply = 5
	ReplyTTLExpired         Reply = 6
	ReplyCommand            Reply = 7
	ReplyAddressType        Reply = 8
)

// String says what the reply means.
func (r Reply) String() string {
	switch r {
	case ReplySucceeded:
		return "succeeded"
	case ReplyGeneralFailure:
		return "general failure"
	case ReplyNotAllowed:
		return "not allowed by ruleset"
	case ReplyNetworkUnreachable:
		return "network unreachable"
	case ReplyHostUnreachable:
		return "host unreachable"
	case ReplyConnectionRefused:
		return "connection refused"
	case ReplyTTLExpired:
		return "TTL expired"
	case ReplyCommand:
		return "command not supported"
	case ReplyAddressType:
		return "address type not supported"
	}
	return "reply " + strconv.Itoa(int(r))
}

// errno is what the reply means to a dialer, or 0 where it says nothing.
func (r Reply) errno() syscall.Errno {
	switch r {
	case ReplyNotAllowed:
		return syscall.EACCES
	case ReplyNetworkUnreachable:
		return syscall.ENETUNREACH
	case ReplyHostUnreachable:
		return syscall.EHOSTUNREACH
	case ReplyConnectionRefused:
		return syscall.ECONNREFUSED
	case ReplyTTLExpired:
		return syscall.ETIMEDOUT
	case ReplyCommand:
		return syscall.EOPNOTSUPP
	case ReplyAddressType:
		return syscall.EAFNOSUPPORT
	}
	return 0
}

// ReplyError is a SOCKS server's refusal. It wraps the matching syscall.Errno:
// errors.Is(err, syscall.ECONNREFUSED) holds for reply 5, and so on.
type ReplyError struct{ Reply Reply }

func (e *ReplyError) Error() string { return "socks: server says: " + e.Reply.String() }

// Unwrap returns the matching errno, or nil for a general failure.
func (e *ReplyError) Unwrap() error {
	if n := e.Reply.errno(); n != 0 {
		return n
	}
	return nil
}

// ReplyFor returns the reply that tells a client of err, by its real cause.
//
// Of several causes, as Happy Eyeballs joins them, the one that tells most
// wins: a host that refused was at least reached.
func ReplyFor(err error) Reply {
	var dns *net.DNSError
	var addr *net.AddrError
	switch {
	case err == nil:
		return ReplySucceeded
	case is(err, syscall.ECONNREFUSED):
		return ReplyConnectionRefused
	case is(err, ErrRule, syscall.EACCES, syscall.EPERM):
		return ReplyNotAllowed
	case errors.As(err, &dns), errors.As(err, &addr), is(err, ErrName):
		return ReplyHostUnreachable
	case is(err, syscall.EHOSTUNREACH, syscall.EHOSTDOWN):
		return ReplyHostUnreachable
	case is(err, syscall.ENETUNREACH, syscall.ENETDOWN, syscall.EADDRNOTAVAIL):
		return ReplyNetworkUnreachable
	case is(err, syscall.ETIMEDOUT, context.DeadlineExceeded, os.ErrDeadlineExceeded):
		return ReplyTTLExpired
	case is(err, ErrAddrType, syscall.EAFNOSUPPORT):
		return ReplyAddressType
	case is(err, errors.ErrUnsupported):
		return ReplyCommand
	}
	return ReplyGeneralFailure
}

func is(err error, targets ...error) bool {
	for _, t := range targets {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}
