package datagram_test

import (
	"bytes"
	"net/netip"
	"testing"

	"netstackd/internal/ippkt"
	"netstackd/internal/transparent/datagram"
	"netstackd/internal/transparent/outlet"
)

// FuzzWriteUDP: whatever the payload, its pieces, the train and the MTU, what
// reaches the application is what was written.
func FuzzWriteUDP(f *testing.F) {
	f.Add([]byte("hello"), uint16(0), uint16(1500), uint8(1), uint8(7))
	f.Add(bytes.Repeat([]byte("x"), 5000), uint16(1200), uint16(1280), uint8(3), uint8(6))
	f.Add(bytes.Repeat([]byte("y"), 65000), uint16(0), uint16(576), uint8(200), uint8(0))
	f.Add([]byte{}, uint16(1), uint16(68), uint8(0), uint8(2))
	f.Fuzz(func(t *testing.T, payload []byte, seg, mtu uint16, pieces, flags uint8) {
		i := int(flags) % len(families)
		src := netip.AddrPortFrom(netip.MustParseAddr("192.0.2.7"), 443)
		least, most := 68, 65507
		if i == 1 {
			src = netip.AddrPortFrom(netip.MustParseAddr("2001:db8::7"), 443)
			least, most = 1280, 65527
		}
		payload = payload[:min(len(payload), most)]
		segment := int(seg)
		if segment == 0 || segment >= len(payload) {
			segment = max(len(payload), 1)
		} else if len(payload) > 64*segment || len(payload) > 65400 {
			return // no train that a socket gave us
		}
		l := newFakeLink(flags&2 != 0, flags&2 != 0 && flags&4 != 0, uint32(max(int(mtu), least)))
		n := max(1, (len(payload)+segment-1)/segment)
		go writeUDP(l, src, families[i].app, segment, split(payload, int(pieces)+1))
		var got []byte
		for _, a := range l.answers(t, n) {
			if a.src != src || a.dst != families[i].app || len(a.payload) > segment {
				t.Fatalf("answer %v to %v of %d bytes", a.src, a.dst, len(a.payload))
			}
			got = append(got, a.payload...)
		}
		if !bytes.Equal(got, payload) {
			t.Fatalf("%d bytes arrived of %d", len(got), len(payload))
		}
	})
}

// split cuts b into n pieces, some empty.
func split(b []byte, n int) [][]byte {
	var out [][]byte
	for i := range n {
		out = append(out, b[i*len(b)/n:(i+1)*len(b)/n])
	}
	return out
}

// FuzzPackets hands hostile packets to both forwarders: nothing panics, and
// every packet is given back.
func FuzzPackets(f *testing.F) {
	f.Add(uint8(17), []byte{0x12, 0x34, 0, 53, 0, 9, 0, 0, 'x'}, uint16(0), uint8(64))
	f.Add(uint8(1), []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0}, uint16(0), uint8(1))
	f.Add(uint8(17), append([]byte{0x12, 0x34, 0, 53, 0, 9, 0, 0}, make([]byte, 3000)...), uint16(1), uint8(64))
	f.Add(uint8(58), []byte{1, 4, 0, 0, 0, 0, 0, 0, 0x60}, uint16(0), uint8(0))
	r := newRig(f, rigConfig{link: newFakeLink(true, true, 1500), dialer: &hostDialer{}, udp: datagram.UDPConfig{Inline: true}})
	srv := listen(f, "127.0.0.1")
	h := datagram.Packets{UDP: r.udp}
	f.Fuzz(func(t *testing.T, proto uint8, msg []byte, seg uint16, ttl uint8) {
		if len(msg) < 8 || len(msg) > 65000 {
			return
		}
		p := icmpPacket(families[0].app.Addr(), srv.addr.Addr(), msg[0], msg[1], 0, msg[8:])
		copy(p.Transport, msg)
		p.Proto, p.TTL, p.GSOSize = proto, ttl, seg
		if proto == ippkt.ProtoUDP {
			p.Transport[2], p.Transport[3] = byte(srv.addr.Port()>>8), byte(srv.addr.Port())
			if int(seg) >= len(msg)-8 {
				p.GSOSize = 0 // as netstack has it
			}
		}
		h.HandlePacket(p)
		h.Flush()
		if n := p.Buf.ReadRefs(); n != 1 {
			t.Errorf("%d references", n)
		}
		p.Buf.DecRef()
		for len(r.link.packets) > 0 {
			<-r.link.packets
		}
	})
}

// writeUDP writes a datagram, or a train of them when seg is shorter than the
// payload, into l as an answer from src to dst.
func writeUDP(l outlet.Link, src, dst netip.AddrPort, seg int, payload [][]byte) {
	o := outlet.New(l)
	w := o.Writer()
	d := outlet.Datagrams{Src: src, Dst: dst, Seg: seg}
	for _, b := range payload {
		w.Bufs = append(w.Bufs, b)
		d.Size += len(b)
	}
	o.UDP(w, &d)
	o.Release(w)
}
