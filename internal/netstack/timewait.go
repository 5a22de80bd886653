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
	// once, and the TUN neither delays nor duplicates packets.
	timeWait = time.Nanosecond

	// Even so the application can be faster than gVisor's timer, and gVisor
	// would drop its SYN or answer it with RST. Such a SYN waits.
	lingerWait  = time.Millisecond
	lingerTries = 1000

	// A connection that looks alive may have its RST queued, which gVisor reads
	// on another goroutine. A SYN waits that long before it is taken for a stray
	// or repeated one.
	resetTries = 5
)

// opens reports whether a parsed segment is a SYN, and nothing more.
func opens(pkt *stack.PacketBuffer) bool {
	flags := header.TCP(pkt.TransportHeader().Slice()).Flags()
	return flags&(header.TCPFlagSyn|header.TCPFlagAck|header.TCPFlagRst) == header.TCPFlagSyn
}

// lingers returns how many times a SYN may wait for the end of the connection
// that it belongs to; 0 when there is none, or one that is yet to begin.
func (s *Stack) lingers(pkt *stack.PacketBuffer) int {
	n, t := pkt.Network(), header.TCP(pkt.TransportHeader().Slice())
	ep, ok := s.gs.FindTransportEndpoint(pkt.NetworkProtocolNumber, tcp.ProtocolNumber, stack.TransportEndpointID{
		LocalAddress:  n.DestinationAddress(),
		LocalPort:     t.DestinationPort(),
		RemoteAddress: n.SourceAddress(),
		RemotePort:    t.SourcePort(),
	}, nicID).(*tcp.Endpoint)
	if !ok {
		return 0
	}
	switch ep.EndpointState() {
	case tcp.StateTimeWait, tcp.StateClose:
		return lingerTries
	case tcp.StateSynRecv, tcp.StateEstablished, tcp.StateFinWait1, tcp.StateFinWait2, tcp.StateCloseWait,
		tcp.StateLastAck, tcp.StateClosing, tcp.StateError:
		return resetTries
	}
	return 0
}

// postpone delivers a SYN when the connection before it is forgotten.
func (f *front) postpone(pkt *stack.PacketBuffer, tries int) {
	pkt.IncRef()
	f.s.wg.Add(1)
	time.AfterFunc(lingerWait, func() {
		defer f.s.wg.Done()
		defer pkt.DecRef()
		if tries > 0 && !f.s.closing.Load() && f.s.lingers(pkt) > 0 {
			f.postpone(pkt, tries-1)
			return
		}
		if !f.s.closing.Load() {
			f.dispatcher.DeliverTransportPacket(header.TCPProtocolNumber, pkt)
		}
	})
}
