package datagram

import (
	"encoding/binary"
	"net/netip"

	"netstackd/internal/flow"
	"netstackd/internal/ippkt"
	"netstackd/internal/netstack"
	"netstackd/internal/route"
)

// Packets is the netstack.PacketHandler over UDP and Echo. It refuses what may
// not run, and gives UDP the ICMP errors that concern its sessions.
type Packets struct {
	UDP  *UDP  // nil takes no datagram
	Echo *Echo // nil refuses echo requests, as for an upstream that carries none
	// Routes says which flows may run; nil = every one.
	Routes *route.Table
	// Refuse writes the ICMP errors for what is refused. It quotes the packet's
	// headers. *netstack.Stack has it as WriteUnreachable.
	Refuse func(from netip.Addr, quote []byte, why ippkt.Unreachable)
}

var _ netstack.PacketHandler = (*Packets)(nil)

// HandlePacket implements netstack.PacketHandler.
func (h *Packets) HandlePacket(p *netstack.Packet) bool {
	if h.refused(p) {
		return true
	}
	if p.Proto == ippkt.ProtoUDP {
		return h.UDP != nil && h.UDP.HandlePacket(p)
	}
	if h.UDP != nil && h.UDP.handleError(p) {
		return true
	}
	return h.Echo != nil && h.Echo.HandlePacket(p)
}

// refused reports whether a packet may not be carried on, and answers it then.
func (h *Packets) refused(p *netstack.Packet) bool {
	m := flow.Meta{Inbound: flow.Transparent, Network: "icmp"}
	var src, dst uint16
	if p.Proto == ippkt.ProtoUDP {
		m.Network = "udp"
		if len(p.Transport) >= 4 {
			src, dst = be16(p.Transport), be16(p.Transport[2:])
		}
	}
	m.Source, m.Dest = netip.AddrPortFrom(p.Src, src), netip.AddrPortFrom(p.Dst, dst)
	ping := ippkt.IsEchoRequest(p.Proto, p.Transport)
	if h.Routes.Decide(&m).Allowed() && (h.Echo != nil || !ping) {
		return false
	}
	// No ICMP error answers another (RFC 1122 §3.2.2).
	if h.Refuse != nil && (p.Proto == ippkt.ProtoUDP || ping) {
		quote := append(p.Network[:len(p.Network):len(p.Network)], p.Transport...)
		h.Refuse(p.Dst, quote, ippkt.AdminProhibited)
	}
	return true
}

// Flush implements netstack.PacketHandler.
func (h *Packets) Flush() {
	if h.UDP != nil {
		h.UDP.Flush()
	}
	if h.Echo != nil {
		h.Echo.Flush()
	}
}

func be16(b []byte) uint16 { return binary.BigEndian.Uint16(b) }
