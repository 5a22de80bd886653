package netstack

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

const (
	// timeWait is how long gVisor remembers a connection that we closed first.
	// The kernel beyond the TUN lets an application use the 4-tuple again at
	// once, and its packets neither wander nor arrive twice.
	timeWait = time.Nanosecond

	// Even so the application can be faster than gVisor's timer, and gVisor
	// would drop its SYN or answer it with RST. Such a SYN waits.
	lingerWait  = time.Millisecond
	lingerTries = 1000
)

// opens reports whether a parsed segment is a SYN, and nothing more.
func opens(pkt *stack.PacketBuffer) bool {
	flags := header.TCP(pkt.TransportHeader().Slice()).Flags()
	return flags&(header.TCPFlagSyn|header.TCPFlagAck|header.TCPFlagRst) == header.TCPFlagSyn
}

// lingers reports whether the connection that a segment belongs to has ended,
// but is not yet forgotten.
func (s *Stack) lingers(pkt *stack.PacketBuffer) bool {
	n, t := pkt.Network(), header.TCP(pkt.TransportHeader().Slice())
	ep, ok := s.gs.FindTransportEndpoint(pkt.NetworkProtocolNumber, tcp.ProtocolNumber, stack.TransportEndpointID{
		LocalAddress:  n.DestinationAddress(),
		LocalPort:     t.DestinationPort(),
		RemoteAddress: n.SourceAddress(),
		RemotePort:    t.SourcePort(),
	}, nicID).(*tcp.Endpoint)
	if !ok {
		return false
	}
	state := ep.EndpointState()
	return state == tcp.StateTimeWait || state == tcp.StateClose
}

// postpone delivers a SYN when the connection before it is forgotten.
func (f *front) postpone(pkt *stack.PacketBuffer, tries int) {
	pkt.IncRef()
	f.s.wg.Add(1)
	time.AfterFunc(lingerWait, func() {
		defer f.s.wg.Done()
		defer pkt.DecRef()
		if tries > 0 && f.s.lingers(pkt) {
			f.postpone(pkt, tries-1)
			return
		}
		f.dispatcher.DeliverTransportPacket(header.TCPProtocolNumber, pkt)
	})
}
