package link

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// VNetHdrLen is the size of struct virtio_net_hdr (linux/virtio_net.h), the
// form that a TUN uses by default.
const VNetHdrLen = 10

// Segmentation types of struct virtio_net_hdr.
const (
	GSONone  = 0 // VIRTIO_NET_HDR_GSO_NONE
	GSOTCPv4 = 1 // VIRTIO_NET_HDR_GSO_TCPV4
	GSOTCPv6 = 4 // VIRTIO_NET_HDR_GSO_TCPV6
	GSOUDP   = 5 // VIRTIO_NET_HDR_GSO_UDP_L4

	gsoECN = 0x80 // VIRTIO_NET_HDR_GSO_ECN, or'ed to the type
)

// Flags of struct virtio_net_hdr.
const (
	flagNeedsCsum = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM
	flagDataValid = 2 // VIRTIO_NET_HDR_F_DATA_VALID
)

// Offload says what is left to do to a packet on its way to or from the
// kernel. The zero value is a plain, finished packet.
type Offload struct {
	GSOType    uint8  // GSONone, GSOTCPv4, GSOTCPv6 or GSOUDP
	NeedsCsum  bool   // the checksum at CsumStart+CsumOffset holds the pseudo-header's sum only
	DataValid  bool   // ingress: the kernel has verified the checksum
	HdrLen     uint16 // bytes of IP and transport header; a hint
	GSOSize    uint16 // payload bytes of each segment
	CsumStart  uint16 // where the checksummed part begins, from the IP header on
	CsumOffset uint16 // where in that part the checksum is
}

// encode writes o as a struct virtio_net_hdr, little-endian as the device keeps
// it on every host (see Device).
func (o *Offload) encode(h *[VNetHdrLen]byte) {
	h[0] = 0
	if o.NeedsCsum {
		h[0] = flagNeedsCsum
	}
	h[1] = o.GSOType
	binary.LittleEndian.PutUint16(h[2:], o.HdrLen)
	binary.LittleEndian.PutUint16(h[4:], o.GSOSize)
	binary.LittleEndian.PutUint16(h[6:], o.CsumStart)
	binary.LittleEndian.PutUint16(h[8:], o.CsumOffset)
}

// decode reads the header of an ingress packet of n bytes and reports whether
// it makes sense for one.
func (o *Offload) decode(h *[VNetHdrLen]byte, n int) bool {
	*o = Offload{
		GSOType:    h[1] &^ gsoECN,
		NeedsCsum:  h[0]&flagNeedsCsum != 0,
		DataValid:  h[0]&flagDataValid != 0,
		HdrLen:     binary.LittleEndian.Uint16(h[2:]),
		GSOSize:    binary.LittleEndian.Uint16(h[4:]),
		CsumStart:  binary.LittleEndian.Uint16(h[6:]),
		CsumOffset: binary.LittleEndian.Uint16(h[8:]),
	}
	switch o.GSOType {
	case GSONone:
	case GSOTCPv4, GSOTCPv6, GSOUDP:
		if o.GSOSize == 0 {
			return false
		}
	default:
		return false
	}
	return !o.NeedsCsum || int(o.CsumStart)+int(o.CsumOffset)+2 <= n
}

// egressOffload translates what gVisor left undone on pkt.
func egressOffload(pkt *stack.PacketBuffer) Offload {
	g := &pkt.GSOOptions
	var o Offload
	if g.Type == stack.GSONone {
		return o
	}
	o.HdrLen = uint16(pkt.HeaderSize())
	if g.NeedsCsum {
		o.NeedsCsum = true
		o.CsumStart = g.L3HdrLen
		o.CsumOffset = g.CsumOffset
	}
	if pkt.Data().Size() > int(g.MSS) {
		o.GSOSize = g.MSS
		switch g.Type {
		case stack.GSOTCPv4:
			o.GSOType = GSOTCPv4
		case stack.GSOTCPv6:
			o.GSOType = GSOTCPv6
		}
	}
	return o
}

// ingressGSO is how a packet's segment size travels to the
// packet's handler: gVisor leaves GSOOptions alone on ingress.
func ingressGSO(o *Offload) stack.GSO {
	if o.GSOType == GSONone {
		return stack.GSO{}
	}
	return stack.GSO{MSS: o.GSOSize}
}
