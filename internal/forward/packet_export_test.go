package forward

import (
	"net/netip"
)

// WriteUDP writes a datagram, or a train of them when seg is shorter than the
// payload, into l as an answer from src to dst.
func WriteUDP(l Link, src, dst netip.AddrPort, seg int, payload [][]byte) {
	o := newOutlet(l)
	w := o.writer()
	d := datagrams{src: src, dst: dst, seg: seg}
	for _, b := range payload {
		w.bufs = append(w.bufs, b)
		d.size += len(b)
	}
	if d.seg == 0 {
		d.seg = d.size
	}
	o.udp(w, &d)
	o.release(w)
}
