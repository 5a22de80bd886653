package forward

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"netstackd/internal/flow"
	"netstackd/internal/ippkt"
	"netstackd/internal/netstack"
	"netstackd/internal/route"
	"netstackd/link"
)

// Link writes packets into the TUN. *link.Endpoint is one.
type Link interface {
	// WriteRaw writes one IP packet gathered from bufs, on the queue that hash
	// chooses. It keeps no buffer and may be called concurrently.
	WriteRaw(hash uint32, o link.Offload, bufs [][]byte) error
	// USO reports whether WriteRaw takes UDP super-packets.
	USO() bool
	// MTU returns the TUN's MTU in bytes.
	MTU() uint32
	// SupportedGSO says, by stack.HostGSOSupported, that packets carry a virtio
	// header, so that the kernel can finish their checksums.
	SupportedGSO() stack.SupportedGSO
}

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

// An outlet makes IP packets and writes them into the TUN.
type outlet struct {
	link Link
	csum bool // the kernel finishes checksums
	uso  bool // it also takes UDP super-packets

	nextID  atomic.Uint32 // identification of IPv4 packets and IPv6 fragments
	writers sync.Pool     // *packetWriter

	errors atomic.Uint64 // writes that the device refused
}

// packetWriter is the scratch space of one write. Its user appends the payload
// to bufs, whose first two elements are kept for headers.
type packetWriter struct {
	hdr  [ippkt.MaxHeaders]byte
	udp  [ippkt.UDPLen]byte // of a datagram that is sent in fragments
	bufs [][]byte
	part [][]byte // slices of one datagram of a train
	frag [][]byte // slices of one fragment
	icmp [ippkt.MaxICMPError]byte
}

func newOutlet(l Link) *outlet {
	o := &outlet{
		link: l,
		csum: l.SupportedGSO() == stack.HostGSOSupported,
		uso:  l.USO(),
	}
	o.writers.New = func() any { return &packetWriter{bufs: make([][]byte, 2, 64)} }
	o.nextID.Store(rand.Uint32())
	return o
}

func (o *outlet) writer() *packetWriter {
	return o.writers.Get().(*packetWriter)
}

// release takes back a writer, which forgets the payload.
func (o *outlet) release(w *packetWriter) {
	w.reset()
	o.writers.Put(w)
}

// reset makes w ready for the next payload.
func (w *packetWriter) reset() {
	clear(w.bufs)
	clear(w.part)
	clear(w.frag)
	w.bufs, w.part, w.frag = w.bufs[:2], w.part[:0], w.frag[:0]
}

// write sends one packet. A packet that the device refuses is lost as on any
// network.
func (o *outlet) write(hash uint32, off link.Offload, bufs [][]byte) {
	if o.link.WriteRaw(hash, off, bufs) != nil {
		o.errors.Add(1)
	}
}

// datagrams says what the payload in a packetWriter is.
type datagrams struct {
	hash     uint32
	src, dst netip.AddrPort // as the application is to see them: src is the remote end
	tos      uint8
	size     int // bytes in all
	seg      int // bytes of each datagram of a train but the last; at least size for one datagram
}

// udp writes the datagrams whose payload is in w.bufs[2:]: as one super-packet
// where the kernel takes it, else one by one, in fragments where the MTU says so.
func (o *outlet) udp(w *packetWriter, d *datagrams) {
	hdrLen := ippkt.HeaderLen(d.src.Addr()) + ippkt.UDPLen
	mtu := int(o.link.MTU())
	if d.size <= d.seg {
		if hdrLen+d.size > mtu {
			o.fragment(w, d, w.bufs[1:], d.size, mtu)
			return
		}
		o.datagram(w, d, w.bufs[1:], d.size, 0)
		return
	}
	if o.uso && hdrLen+d.seg <= mtu && hdrLen+d.size <= ippkt.MaxPacket {
		o.datagram(w, d, w.bufs[1:], d.size, d.seg)
		return
	}
	for off := 0; off < d.size; off += d.seg {
		n := min(d.seg, d.size-off)
		w.part = append(w.part[:0], nil)
		w.part = ippkt.AppendRange(w.part, w.bufs[2:], off, n)
		if hdrLen+n > mtu {
			o.fragment(w, d, w.part, n, mtu)
			continue
		}
		o.datagram(w, d, w.part, n, 0)
	}
}

// datagram writes one packet of size bytes of payload. bufs[0] is free for the
// headers. A seg that is not 0 makes it a super-packet.
func (o *outlet) datagram(w *packetWriter, d *datagrams, bufs [][]byte, size, seg int) {
	src, dst := d.src.Addr(), d.dst.Addr()
	ip := ippkt.Header{Src: src, Dst: dst, Proto: ippkt.ProtoUDP, TTL: ippkt.DefaultTTL, TOS: d.tos, ID: uint16(o.nextID.Add(1))}
	n := ip.Put(w.hdr[:], ippkt.UDPLen+size)
	udp := w.hdr[n : n+ippkt.UDPLen]
	var off link.Offload
	if o.csum {
		ippkt.PutUDP(udp, d.src.Port(), d.dst.Port(), size, ippkt.PseudoSum(src, dst, ippkt.ProtoUDP, ippkt.UDPLen+size))
		off = link.Offload{NeedsCsum: true, HdrLen: uint16(n + ippkt.UDPLen), CsumStart: uint16(n), CsumOffset: ippkt.UDPSumOffset}
		if seg > 0 {
			off.GSOType, off.GSOSize = link.GSOUDP, uint16(seg)
		}
	} else {
		ippkt.PutUDP(udp, d.src.Port(), d.dst.Port(), size, 0)
		bufs[0] = udp
		binary.BigEndian.PutUint16(udp[ippkt.UDPSumOffset:], ippkt.UDPChecksum(src, dst, ippkt.UDPLen+size, bufs))
	}
	bufs[0] = w.hdr[:n+ippkt.UDPLen]
	o.write(d.hash, off, bufs)
}

// fragment writes one datagram of size bytes, whose payload is in bufs[1:], in
// fragments that fit the MTU. bufs[0] is free for the UDP header. The checksum
// spans all fragments, so the kernel can't finish it.
func (o *outlet) fragment(w *packetWriter, d *datagrams, bufs [][]byte, size, mtu int) {
	src, dst := d.src.Addr(), d.dst.Addr()
	ippkt.PutUDP(w.udp[:], d.src.Port(), d.dst.Port(), size, 0)
	bufs[0] = w.udp[:]
	binary.BigEndian.PutUint16(w.udp[ippkt.UDPSumOffset:], ippkt.UDPChecksum(src, dst, ippkt.UDPLen+size, bufs))

	ip := ippkt.Header{Src: src, Dst: dst, Proto: ippkt.ProtoUDP, TTL: ippkt.DefaultTTL, TOS: d.tos}
	o.fragments(w, d.hash, &ip, bufs, ippkt.UDPLen+size, mtu)
}

// packet writes an IP packet with the size bytes in w.bufs[2:] behind its
// header, in fragments if it exceeds the MTU.
func (o *outlet) packet(w *packetWriter, hash uint32, ip *ippkt.Header, size int) {
	if mtu := int(o.link.MTU()); ippkt.HeaderLen(ip.Src)+size > mtu {
		o.fragments(w, hash, ip, w.bufs[2:], size, mtu)
		return
	}
	ip.ID = uint16(o.nextID.Add(1))
	w.bufs[1] = w.hdr[:ip.Put(w.hdr[:], size)]
	o.write(hash, link.Offload{}, w.bufs[1:])
}

// fragments writes the size bytes in bufs behind as many copies of the IP
// header as they need.
func (o *outlet) fragments(w *packetWriter, hash uint32, ip *ippkt.Header, bufs [][]byte, size, mtu int) {
	f := ippkt.Fragment(*ip, o.nextID.Add(1), size, mtu)
	for {
		hdr, off, n, ok := f.Next(w.hdr[:])
		if !ok {
			return
		}
		w.frag = append(w.frag[:0], w.hdr[:hdr])
		w.frag = ippkt.AppendRange(w.frag, bufs, off, n)
		o.write(hash, link.Offload{}, w.frag)
	}
}

func be16(b []byte) uint16 { return binary.BigEndian.Uint16(b) }
