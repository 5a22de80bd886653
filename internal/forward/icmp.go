package forward

import "netstackd/internal/netstack"

// Echo stub.
type Echo struct{}

// HandlePacket implements netstack.PacketHandler.
func (e *Echo) HandlePacket(p *netstack.Packet) bool { return false }

// Flush implements netstack.PacketHandler.
func (e *Echo) Flush() {}
