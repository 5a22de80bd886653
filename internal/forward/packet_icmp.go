package forward

import (
	"netstackd/internal/ippkt"
	"netstackd/internal/netstack"
	"netstackd/link"
)

// quoteOf is the quote of a packet as it came.
func quoteOf(p *netstack.Packet) ippkt.Quote {
	return ippkt.Quote{
		Src: p.Src, Dst: p.Dst, Proto: p.Proto, TTL: p.TTL, TOS: p.TOS, DF: p.DF,
		Transport: [ippkt.UDPLen]byte(p.Transport), Payload: p.AppendPayload(nil), Size: p.Buf.Data().Size(),
	}
}

// icmp writes an ICMP error to the quoted packet's sender.
func (o *outlet) icmp(hash uint32, e ippkt.ICMPError, q *ippkt.Quote) {
	if e.From.Is4() != q.Src.Is4() || q.Dst.Is4() != q.Src.Is4() {
		return
	}
	w := o.writer()
	w.part = append(append(w.part, w.hdr[:q.Put(w.hdr[:])]), q.Payload...)
	w.frag = append(w.frag, e.Append(w.icmp[:0], q.Src, w.part...))
	o.write(hash, link.Offload{}, w.frag)
	o.release(w)
}
