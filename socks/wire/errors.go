package wire

import "errors"

// What can be wrong with a message. Match them with errors.Is.
var (
	ErrVersion  = errors.New("socks: unexpected version")
	ErrAddrType = errors.New("socks: unknown address type")
	ErrName     = errors.New("socks: unusable host name")
	ErrUser     = errors.New("socks: unusable user name or password")
)
