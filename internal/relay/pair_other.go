//go:build !linux

package relay

import (
	"net"

	"netstackd/internal/flow"
)

type zeroCopy struct{}

func (*zeroCopy) init()  {}
func (*zeroCopy) close() {}

func (r *Relay) joinPair(*flow.Flow, net.Conn, net.Conn, []byte, []byte) bool { return false }
