package forward

import (
	"encoding/binary"

	"netstackd/internal/netstack"
	"netstackd/link"
)

// fragment writes one datagram of size bytes, whose payload is in bufs[1:], in
// fragments that fit the MTU. bufs[0] is free for the UDP header. The checksum
// spans all fragments, so the kernel can't be left to finish it.
func (o *outlet) fragment(w *packetWriter, d *datagrams, bufs [][]byte, size, mtu int) {
	src, dst := d.src.Addr(), d.dst.Addr()
	putUDP(w.udp[:], d.src.Port(), d.dst.Port(), size, 0)
	bufs[0] = w.udp[:]
	putSum(w.udp[:], udpSum(src, dst, udpLen+size, bufs))

	ip := ipHeader{src: src, dst: dst, proto: netstack.ProtoUDP, ttl: defaultTTL, tos: d.tos}
	o.fragments(w, d.hash, &ip, bufs, udpLen+size, mtu)
}

// fragments writes the size bytes in bufs behind as many copies of the IP
// header as they need.
func (o *outlet) fragments(w *packetWriter, hash uint32, ip *ipHeader, bufs [][]byte, size, mtu int) {
	id := o.nextID.Add(1)
	if ip.src.Is4() {
		room := (mtu - ipv4Len) &^ 7 // offsets count units of 8 bytes
		if room <= 0 {
			return
		}
		ip.id = uint16(id)
		for off := 0; off < size; off += room {
			n := min(room, size-off)
			ip.frag = uint16(off / 8)
			if off+n < size {
				ip.frag |= flagMF
			}
			o.writeFragment(w, hash, ip.put(w.hdr[:], n), bufs, off, n)
		}
		return
	}
	room := (mtu - ipv6Len - fragLen) &^ 7
	if room <= 0 {
		return
	}
	proto := ip.proto
	ip.proto = protoFragment
	for off := 0; off < size; off += room {
		n := min(room, size-off)
		field := uint16(off)
		if off+n < size {
			field |= 1
		}
		ip.put(w.hdr[:], fragLen+n)
		f := w.hdr[ipv6Len:]
		f[0], f[1] = proto, 0
		binary.BigEndian.PutUint16(f[2:], field)
		binary.BigEndian.PutUint32(f[4:], id)
		o.writeFragment(w, hash, ipv6Len+fragLen, bufs, off, n)
	}
}

// writeFragment writes hdrLen bytes of w.hdr and n bytes of bufs from off on.
func (o *outlet) writeFragment(w *packetWriter, hash uint32, hdrLen int, bufs [][]byte, off, n int) {
	w.frag = append(w.frag[:0], w.hdr[:hdrLen])
	w.frag = appendRange(w.frag, bufs, off, n)
	o.write(hash, link.Offload{}, w.frag)
}
