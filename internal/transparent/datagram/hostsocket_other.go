//go:build !linux

package datagram

import (
	"errors"
	"net"
)

// Host sockets are driven by system calls that only Linux has.

type scratch struct{}

func (*scratch) init() {}

func newUDPSocket(*session, *net.UDPConn) (carrier, error) { return nil, errors.ErrUnsupported }

func newPingSocket(*session, net.PacketConn, bool) (carrier, error) {
	return nil, errors.ErrUnsupported
}
