package netstack

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Packet is a UDP datagram, a train of them, or an ICMP message for an address
// that is not the stack's own. It is valid during HandlePacket only, all but
// Buf when it was IncRef'ed.
type Packet struct {
	Src, Dst netip.Addr
	Proto    uint8 // ippkt.ProtoUDP, ippkt.ProtoICMP or ippkt.ProtoICMPv6
	TTL      uint8 // hop limit in IPv6
	TOS      uint8 // traffic class in IPv6
	DF       bool  // may not be fragmented: IPv4's flag, always so in IPv6

	// GSOSize, when not 0, makes the payload a train of UDP datagrams of this
	// many bytes each, of which only the last may be shorter.
	GSOSize uint16

	// Network and Transport are the headers as received: IP without its payload,
	// then UDP (8 bytes) or the first 8 bytes of ICMP.
	Network, Transport []byte

	// Hash is what to give to WriteRaw with answers, so that the flow stays on
	// one queue.
	Hash uint32

	// Buf holds the payload as its Data.
	Buf *stack.PacketBuffer
}

// AppendPayload appends the payload's slices to bufs. They are valid, and must
// not be written to, as long as a reference to Buf is held.
func (p *Packet) AppendPayload(bufs [][]byte) [][]byte {
	d := p.Buf.Data()
	views, skip := p.Buf.AsViewList()
	skip += p.Buf.HeaderSize()
	left := d.Size()
	for v := views.Front(); v != nil && left > 0; v = v.Next() {
		b := v.AsSlice()
		if skip >= len(b) {
			skip -= len(b)
			continue
		}
		b = b[skip:]
		skip = 0
		if len(b) > left {
			b = b[:left]
		}
		left -= len(b)
		bufs = append(bufs, b)
	}
	return bufs
}

// PacketHandler takes the UDP and ICMP traffic that is not for the stack
// itself. Both methods run on the goroutines that deliver packets, one for
// each queue of the device, and must not block.
type PacketHandler interface {
	// HandlePacket reports whether it took the packet. A UDP datagram that it
	// does not take is answered with port unreachable.
	HandlePacket(p *Packet) bool
	// Flush follows each batch of packets.
	Flush()
}
