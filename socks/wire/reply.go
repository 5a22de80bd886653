package wire

import "strconv"

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
