package netstack

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"netstackd/internal/ippkt"
)

// WritePacket implements stack.NetworkEndpoint.
func (f *front) WritePacket(r *stack.Route, params stack.NetworkHeaderParams, pkt *stack.PacketBuffer) tcpip.Error {
	if params.Protocol == header.TCPProtocolNumber {
		keepWindow(pkt)
	}
	return f.NetworkEndpoint.WritePacket(r, params, pkt)
}

// keepWindow advertises one unit of the receive window less than gVisor does,
// so that the window's right edge never moves back.
//
// gVisor keeps the edge as a sequence number, but sends it as a distance that is
// rounded down to the window scale's unit (RFC 7323 2.2), and accepts only what
// begins within that distance. As data arrives, the rounding moves the sent edge
// by up to a unit, back and forth. A peer that has sent up to the furthest edge
// is then past the last one sent, and all that it sends is dropped, with its
// acknowledgements: when the window stays closed, because the reader waits for
// the other direction, neither direction ever moves again. One unit less is
// always within what gVisor accepts.
func keepWindow(pkt *stack.PacketBuffer) {
	h := header.TCP(pkt.TransportHeader().Slice())
	w := h.WindowSize()
	if w == 0 || h.Flags()&header.TCPFlagSyn != 0 { // a SYN's window is not scaled
		return
	}
	h.SetWindowSize(w - 1)
	if g := &pkt.GSOOptions; g.Type != stack.GSONone && g.NeedsCsum {
		return // the checksum is of the pseudo header as yet
	}
	h.SetChecksum(ippkt.Update(h.Checksum(), w, w-1))
}
