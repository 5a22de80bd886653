package datagram_test

import (
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"netstackd/internal/ippkt"
	"netstackd/internal/netstack"
	"netstackd/link"
)

// fakeLink is a TUN that keeps what is written to it.
type fakeLink struct {
	vnet, uso bool
	mtu       uint32
	packets   chan written
}

type written struct {
	hash uint32
	off  link.Offload
	data []byte
}

func newFakeLink(vnet, uso bool, mtu uint32) *fakeLink {
	return &fakeLink{vnet: vnet, uso: uso, mtu: mtu, packets: make(chan written, 4096)}
}

func (l *fakeLink) USO() bool   { return l.uso }
func (l *fakeLink) MTU() uint32 { return l.mtu }

func (l *fakeLink) SupportedGSO() stack.SupportedGSO {
	if l.vnet {
		return stack.HostGSOSupported
	}
	return stack.GSONotSupported
}

func (l *fakeLink) WriteRaw(hash uint32, off link.Offload, bufs [][]byte) error {
	var data []byte
	for _, b := range bufs {
		data = append(data, b...)
	}
	l.packets <- written{hash, off, data}
	return nil
}

// next waits for a packet.
func (l *fakeLink) next(t testing.TB) written {
	t.Helper()
	select {
	case w := <-l.packets:
		return w
	case <-time.After(5 * time.Second):
		t.Fatal("no packet was written to the TUN")
		panic("unreachable")
	}
}

// answer is one datagram as the application gets it.
type answer struct {
	src, dst netip.AddrPort
	tos      uint8
	payload  []byte
}

// answers reads packets until they make up n datagrams, and does what the
// receiving kernel does: it finishes or verifies checksums, reassembles, and
// takes trains apart.
func (l *fakeLink) answers(t testing.TB, n int) []answer {
	t.Helper()
	var out []answer
	frags := map[uint32][]byte{}
	for len(out) < n {
		w := l.next(t)
		ip := parseIP(t, w.data)
		if ip.proto != header.UDPProtocolNumber {
			t.Fatalf("protocol %d, want UDP: %x", ip.proto, w.data)
		}
		if len(w.data) > int(l.mtu) && w.off.GSOType == 0 {
			t.Fatalf("packet of %d bytes exceeds the MTU of %d", len(w.data), l.mtu)
		}
		udp := ip.payload
		if ip.more || ip.offset > 0 {
			if w.off != (link.Offload{}) {
				t.Fatalf("fragment with offload %+v", w.off)
			}
			if len(frags[ip.id]) != ip.offset {
				t.Fatalf("fragment at %d, want %d", ip.offset, len(frags[ip.id]))
			}
			frags[ip.id] = append(frags[ip.id], udp...)
			if ip.more {
				continue
			}
			udp = frags[ip.id]
			delete(frags, ip.id)
		}
		out = append(out, datagramsOf(t, ip, udp, w)...)
	}
	return out
}

func datagramsOf(t testing.TB, ip parsedIP, udp header.UDP, w written) []answer {
	t.Helper()
	if int(udp.Length()) != len(udp) {
		t.Fatalf("UDP length %d of %d bytes", udp.Length(), len(udp))
	}
	sum := header.PseudoHeaderChecksum(header.UDPProtocolNumber, tcpAddr(ip.src), tcpAddr(ip.dst), uint16(len(udp)))
	if w.off.NeedsCsum {
		if udp.Checksum() != sum {
			t.Fatalf("checksum field %#x, want the pseudo-header's %#x", udp.Checksum(), sum)
		}
		if int(w.off.CsumStart) != len(w.data)-len(udp) || w.off.CsumOffset != 6 || int(w.off.HdrLen) != len(w.data)-len(udp)+8 {
			t.Fatalf("offload %+v for a header of %d bytes", w.off, len(w.data)-len(udp))
		}
	} else if checksum.Checksum(udp, sum) != 0xffff {
		t.Fatalf("wrong checksum %#x", udp.Checksum())
	}
	a := answer{
		src: netip.AddrPortFrom(ip.src, udp.SourcePort()), dst: netip.AddrPortFrom(ip.dst, udp.DestinationPort()),
		tos: ip.tos, payload: udp.Payload(),
	}
	if w.off.GSOType == link.GSONone {
		return []answer{a}
	}
	seg := int(w.off.GSOSize)
	if w.off.GSOType != link.GSOUDP || seg == 0 || !w.off.NeedsCsum || len(a.payload) > 64*seg {
		t.Fatalf("super-packet of %d bytes with offload %+v", len(a.payload), w.off)
	}
	var out []answer
	for p := a.payload; len(p) > 0; p = p[min(seg, len(p)):] {
		a.payload = p[:min(seg, len(p))]
		out = append(out, a)
	}
	return out
}

type parsedIP struct {
	src, dst netip.Addr
	proto    tcpip.TransportProtocolNumber
	tos, ttl uint8
	df, more bool
	offset   int
	id       uint32
	payload  []byte
}

func parseIP(t testing.TB, b []byte) parsedIP {
	t.Helper()
	if header.IPVersion(b) == 4 {
		h := header.IPv4(b)
		if !h.IsValid(len(b)) || !h.IsChecksumValid() || int(h.TotalLength()) != len(b) {
			t.Fatalf("invalid IPv4 packet: %x", b)
		}
		tos, _ := h.TOS()
		return parsedIP{
			src: netAddr(h.SourceAddress()), dst: netAddr(h.DestinationAddress()), proto: h.TransportProtocol(),
			tos: tos, ttl: h.TTL(), df: h.Flags()&header.IPv4FlagDontFragment != 0,
			more: h.More(), offset: int(h.FragmentOffset()), id: uint32(h.ID()), payload: h.Payload(),
		}
	}
	h := header.IPv6(b)
	if !h.IsValid(len(b)) || int(h.PayloadLength())+header.IPv6MinimumSize != len(b) {
		t.Fatalf("invalid IPv6 packet: %x", b)
	}
	tos, _ := h.TOS()
	p := parsedIP{
		src: netAddr(h.SourceAddress()), dst: netAddr(h.DestinationAddress()), proto: tcpip.TransportProtocolNumber(h.NextHeader()),
		tos: tos, ttl: h.HopLimit(), payload: h.Payload(),
	}
	if p.proto == header.IPv6FragmentHeader {
		f := header.IPv6Fragment(p.payload)
		p.proto, p.more, p.offset, p.id = f.TransportProtocol(), f.More(), int(f.FragmentOffset())*8, f.ID()
		p.payload = p.payload[header.IPv6FragmentHeaderSize:]
	}
	return p
}

func tcpAddr(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

func netAddr(a tcpip.Address) netip.Addr {
	n, _ := netip.AddrFromSlice(a.AsSlice())
	return n
}

// appPacket is what an application's kernel sends.
type appPacket struct {
	src, dst netip.AddrPort
	payload  []byte
	seg      int // of a train
	noDF     bool
	ttl, tos uint8
	views    int // how many pieces the payload is in; 0 = one
}

// packet returns the packet as netstack hands it over. The caller releases Buf.
func (a *appPacket) packet() *netstack.Packet {
	ttl := a.ttl
	if ttl == 0 {
		ttl = 64
	}
	var hdr []byte
	if a.src.Addr().Is4() {
		h := header.IPv4(make([]byte, header.IPv4MinimumSize))
		flags := uint8(header.IPv4FlagDontFragment)
		if a.noDF {
			flags = 0
		}
		h.Encode(&header.IPv4Fields{
			TotalLength: uint16(header.IPv4MinimumSize + 8 + len(a.payload)), TTL: ttl, TOS: a.tos, Flags: flags,
			Protocol: uint8(header.UDPProtocolNumber), SrcAddr: tcpAddr(a.src.Addr()), DstAddr: tcpAddr(a.dst.Addr()),
		})
		hdr = h
	} else {
		h := header.IPv6(make([]byte, header.IPv6MinimumSize))
		h.Encode(&header.IPv6Fields{
			PayloadLength: uint16(8 + len(a.payload)), HopLimit: ttl, TrafficClass: a.tos,
			TransportProtocol: header.UDPProtocolNumber, SrcAddr: tcpAddr(a.src.Addr()), DstAddr: tcpAddr(a.dst.Addr()),
		})
		hdr = h
		if a.noDF { // reassembled: gVisor leaves the first fragment's header
			hdr = append(hdr, uint8(header.UDPProtocolNumber), 0, 0, 1, 0, 0, 0, 1)
			h.SetNextHeader(header.IPv6FragmentHeader)
		}
	}
	ipLen := len(hdr)
	hdr = append(hdr, make([]byte, 8)...)
	header.UDP(hdr[ipLen:]).Encode(&header.UDPFields{
		SrcPort: a.src.Port(), DstPort: a.dst.Port(), Length: uint16(8 + len(a.payload)),
	})
	var buf buffer.Buffer
	_ = buf.Append(buffer.NewViewWithData(hdr))
	views := max(a.views, 1)
	for i := range views {
		lo, hi := i*len(a.payload)/views, (i+1)*len(a.payload)/views
		if hi > lo {
			_ = buf.Append(buffer.NewViewWithData(a.payload[lo:hi]))
		}
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buf})
	pkt.NetworkHeader().Consume(ipLen)
	pkt.TransportHeader().Consume(8)
	return &netstack.Packet{
		Src: a.src.Addr(), Dst: a.dst.Addr(), Proto: ippkt.ProtoUDP, TTL: ttl, TOS: a.tos,
		DF: !a.noDF || !a.src.Addr().Is4(), GSOSize: uint16(a.seg), Hash: uint32(a.src.Port()),
		Network: pkt.NetworkHeader().Slice(), Transport: pkt.TransportHeader().Slice(), Buf: pkt,
	}
}
