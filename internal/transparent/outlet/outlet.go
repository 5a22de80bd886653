// Package outlet builds the answers of the transparent inbounds as IP packets and
// writes them into the TUN: UDP datagrams, trains of datagrams, whole packets,
// fragments and ICMP errors. No endpoint of the stack is involved.
package outlet

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"netstackd/internal/ippkt"
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

// Outlet makes IP packets and writes them into the TUN. It is safe for concurrent
// use. Use New.
type Outlet struct {
	link Link
	csum bool // the kernel finishes checksums
	uso  bool // it also takes UDP super-packets

	nextID  atomic.Uint32 // identification of IPv4 packets and IPv6 fragments
	writers sync.Pool     // *Writer

	refused atomic.Uint64 // writes that the device refused
}

// Writer is the scratch space of one write. Its user appends the payload to Bufs,
// whose first two elements are kept for headers.
type Writer struct {
	hdr  [ippkt.MaxHeaders]byte
	udp  [ippkt.UDPLen]byte // of a datagram that is sent in fragments
	Bufs [][]byte
	part [][]byte // slices of one datagram of a train
	frag [][]byte // slices of one fragment
	icmp [ippkt.MaxICMPError]byte
}

// New returns an Outlet that writes into l.
func New(l Link) *Outlet {
	o := &Outlet{
		link: l,
		csum: l.SupportedGSO() == stack.HostGSOSupported,
		uso:  l.USO(),
	}
	o.writers.New = func() any { return &Writer{Bufs: make([][]byte, 2, 64)} }
	o.nextID.Store(rand.Uint32())
	return o
}

// Writer takes a Writer from the pool. Release gives it back.
func (o *Outlet) Writer() *Writer {
	return o.writers.Get().(*Writer)
}

// Release takes back a writer, which forgets the payload.
func (o *Outlet) Release(w *Writer) {
	w.Reset()
	o.writers.Put(w)
}

// Reset makes w ready for the next payload.
func (w *Writer) Reset() {
	clear(w.Bufs)
	clear(w.part)
	clear(w.frag)
	w.Bufs, w.part, w.frag = w.Bufs[:2], w.part[:0], w.frag[:0]
}

// USO reports whether UDP writes trains as one packet.
func (o *Outlet) USO() bool { return o.uso }

// Refused counts the packets that the device refused.
func (o *Outlet) Refused() uint64 { return o.refused.Load() }

// write sends one packet. A packet that the device refuses is lost as on any
// network.
func (o *Outlet) write(hash uint32, off link.Offload, bufs [][]byte) {
	if o.link.WriteRaw(hash, off, bufs) != nil {
		o.refused.Add(1)
	}
}

// Datagrams describes the payload in a Writer.
type Datagrams struct {
	Hash     uint32         // chooses the TUN's queue
	Src, Dst netip.AddrPort // as the application is to see them: Src is the remote end
	TOS      uint8
	Size     int // bytes in all
	Seg      int // bytes of each datagram of a train but the last; at least Size for one datagram
}

// UDP writes the datagrams whose payload is in w.Bufs[2:]: as one super-packet
// where the kernel takes it, else one by one, in fragments where the MTU says so.
func (o *Outlet) UDP(w *Writer, d *Datagrams) {
	hdrLen := ippkt.HeaderLen(d.Src.Addr()) + ippkt.UDPLen
	mtu := int(o.link.MTU())
	if d.Size <= d.Seg {
		if hdrLen+d.Size > mtu {
			o.fragment(w, d, w.Bufs[1:], d.Size, mtu)
			return
		}
		o.datagram(w, d, w.Bufs[1:], d.Size, 0)
		return
	}
	if o.uso && hdrLen+d.Seg <= mtu && hdrLen+d.Size <= ippkt.MaxPacket {
		o.datagram(w, d, w.Bufs[1:], d.Size, d.Seg)
		return
	}
	for off := 0; off < d.Size; off += d.Seg {
		n := min(d.Seg, d.Size-off)
		w.part = append(w.part[:0], nil)
		w.part = ippkt.AppendRange(w.part, w.Bufs[2:], off, n)
		if hdrLen+n > mtu {
			o.fragment(w, d, w.part, n, mtu)
			continue
		}
		o.datagram(w, d, w.part, n, 0)
	}
}

// datagram writes one packet of size bytes of payload. bufs[0] is free for the
// headers. A seg that is not 0 makes it a super-packet.
func (o *Outlet) datagram(w *Writer, d *Datagrams, bufs [][]byte, size, seg int) {
	src, dst := d.Src.Addr(), d.Dst.Addr()
	ip := ippkt.Header{Src: src, Dst: dst, Proto: ippkt.ProtoUDP, TTL: ippkt.DefaultTTL, TOS: d.TOS, ID: uint16(o.nextID.Add(1))}
	n := ip.Put(w.hdr[:], ippkt.UDPLen+size)
	udp := w.hdr[n : n+ippkt.UDPLen]
	var off link.Offload
	if o.csum {
		ippkt.PutUDP(udp, d.Src.Port(), d.Dst.Port(), size, ippkt.PseudoSum(src, dst, ippkt.ProtoUDP, ippkt.UDPLen+size))
		off = link.Offload{NeedsCsum: true, HdrLen: uint16(n + ippkt.UDPLen), CsumStart: uint16(n), CsumOffset: ippkt.UDPSumOffset}
		if seg > 0 {
			off.GSOType, off.GSOSize = link.GSOUDP, uint16(seg)
		}
	} else {
		ippkt.PutUDP(udp, d.Src.Port(), d.Dst.Port(), size, 0)
		bufs[0] = udp
		binary.BigEndian.PutUint16(udp[ippkt.UDPSumOffset:], ippkt.UDPChecksum(src, dst, ippkt.UDPLen+size, bufs))
	}
	bufs[0] = w.hdr[:n+ippkt.UDPLen]
	o.write(d.Hash, off, bufs)
}

// fragment writes one datagram of size bytes, whose payload is in bufs[1:], in
// fragments that fit the MTU. bufs[0] is free for the UDP header. The checksum
// spans all fragments, so the kernel can't finish it.
func (o *Outlet) fragment(w *Writer, d *Datagrams, bufs [][]byte, size, mtu int) {
	src, dst := d.Src.Addr(), d.Dst.Addr()
	ippkt.PutUDP(w.udp[:], d.Src.Port(), d.Dst.Port(), size, 0)
	bufs[0] = w.udp[:]
	binary.BigEndian.PutUint16(w.udp[ippkt.UDPSumOffset:], ippkt.UDPChecksum(src, dst, ippkt.UDPLen+size, bufs))

	ip := ippkt.Header{Src: src, Dst: dst, Proto: ippkt.ProtoUDP, TTL: ippkt.DefaultTTL, TOS: d.TOS}
	o.fragments(w, d.Hash, &ip, bufs, ippkt.UDPLen+size, mtu)
}

// Packet writes an IP packet with the size bytes in w.Bufs[2:] behind its
// header, in fragments if it exceeds the MTU.
func (o *Outlet) Packet(w *Writer, hash uint32, ip *ippkt.Header, size int) {
	if mtu := int(o.link.MTU()); ippkt.HeaderLen(ip.Src)+size > mtu {
		o.fragments(w, hash, ip, w.Bufs[2:], size, mtu)
		return
	}
	ip.ID = uint16(o.nextID.Add(1))
	w.Bufs[1] = w.hdr[:ip.Put(w.hdr[:], size)]
	o.write(hash, link.Offload{}, w.Bufs[1:])
}

// fragments writes the size bytes in bufs behind as many copies of the IP
// header as they need.
func (o *Outlet) fragments(w *Writer, hash uint32, ip *ippkt.Header, bufs [][]byte, size, mtu int) {
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

// ICMP writes an ICMP error to the quoted packet's sender.
func (o *Outlet) ICMP(hash uint32, e ippkt.ICMPError, q *ippkt.Quote) {
	if e.From.Is4() != q.Src.Is4() || q.Dst.Is4() != q.Src.Is4() {
		return
	}
	w := o.Writer()
	w.part = append(append(w.part, w.hdr[:q.Put(w.hdr[:])]), q.Payload...)
	w.frag = append(w.frag, e.Append(w.icmp[:0], q.Src, w.part...))
	o.write(hash, link.Offload{}, w.frag)
	o.Release(w)
}
