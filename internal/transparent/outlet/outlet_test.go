package outlet_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"netstackd/internal/ippkt"
	"netstackd/internal/transparent/outlet"
	"netstackd/link"
)

// fakeLink keeps the packets that are written to it, or refuses them.
type fakeLink struct {
	uso     bool
	full    bool
	packets [][]byte
	off     []link.Offload
}

func (l *fakeLink) WriteRaw(_ uint32, off link.Offload, bufs [][]byte) error {
	if l.full {
		return errors.New("full")
	}
	l.packets = append(l.packets, bytes.Join(bufs, nil))
	l.off = append(l.off, off)
	return nil
}

func (l *fakeLink) USO() bool   { return l.uso }
func (l *fakeLink) MTU() uint32 { return 1500 }

func (l *fakeLink) SupportedGSO() stack.SupportedGSO {
	if l.uso {
		return stack.HostGSOSupported
	}
	return stack.GSONotSupported
}

var (
	remote = netip.MustParseAddrPort("192.0.2.7:443")
	app    = netip.MustParseAddrPort("10.0.0.1:5000")
)

// A train is one packet where the device takes it, and one packet for each
// datagram elsewhere. A datagram beyond the MTU goes in fragments.
func TestUDP(t *testing.T) {
	for _, c := range []struct {
		name      string
		uso       bool
		size, seg int
		packets   int
	}{
		{"one", false, 100, 100, 1},
		{"train", false, 2500, 1000, 3},
		{"super-packet", true, 2500, 1000, 1},
		{"fragments", true, 4000, 4000, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := &fakeLink{uso: c.uso}
			o := outlet.New(l)
			w := o.Writer()
			payload := pattern(c.size)
			w.Bufs = append(w.Bufs, payload[:c.size/3], payload[c.size/3:])
			o.UDP(w, &outlet.Datagrams{Src: remote, Dst: app, Size: c.size, Seg: c.seg})
			o.Release(w)
			if len(l.packets) != c.packets {
				t.Fatalf("%d packets, want %d", len(l.packets), c.packets)
			}
			super := c.uso && c.size > c.seg
			if got := l.off[0].GSOType == link.GSOUDP && int(l.off[0].GSOSize) == c.seg; got != super {
				t.Errorf("offload %+v", l.off[0])
			}
			for _, p := range l.packets {
				if !super && len(p) > 1500 || ippkt.Sum(p[:ippkt.IPv4Len], 0) != 0xffff {
					t.Errorf("%d bytes, header %x", len(p), p[:ippkt.IPv4Len])
				}
			}
			if got := payloads(t, l, super); !bytes.Equal(got, payload) {
				t.Errorf("%d bytes came, which are not the %d that were sent", len(got), len(payload))
			}
		})
	}
}

// pattern is n bytes, of which none is where another may be.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8*7)
	}
	return b
}

// payloads joins what the packets carry, after their fragments are put together.
// It checks the UDP headers, and their checksums where no device completes them.
func payloads(t *testing.T, l *fakeLink, super bool) (all []byte) {
	t.Helper()
	var whole []byte // of a datagram in fragments
	for i, p := range l.packets {
		segment := p[ippkt.IPv4Len:]
		const more, unit = 1 << 13, 8
		if field := int(binary.BigEndian.Uint16(p[6:])) % (2 * more); field != 0 {
			if at := field % more * unit; at != len(whole) {
				t.Errorf("packet %d: a fragment at %d after %d bytes", i, at, len(whole))
			}
			whole = append(whole, segment...)
			if field&more != 0 {
				continue
			}
			segment = whole
		}
		if src, dst, n := binary.BigEndian.Uint16(segment), binary.BigEndian.Uint16(segment[2:]), int(binary.BigEndian.Uint16(segment[4:])); src != remote.Port() ||
			dst != app.Port() || n != len(segment) {
			t.Errorf("packet %d: from port %d to %d, %d of %d bytes", i, src, dst, n, len(segment))
		}
		if sum := ippkt.PseudoSum(remote.Addr(), app.Addr(), ippkt.ProtoUDP, len(segment)); !super && !l.off[i].NeedsCsum && ippkt.Sum(segment, sum) != 0xffff {
			t.Errorf("packet %d: wrong checksum", i)
		}
		all = append(all, segment[ippkt.UDPLen:]...)
	}
	return all
}

// An ICMP error goes to the sender of the quoted packet, and packets that the
// device refuses are counted.
func TestICMP(t *testing.T) {
	l := &fakeLink{}
	o := outlet.New(l)
	q := ippkt.QuoteUDP(app, remote, 10, make([]byte, 10))
	o.ICMP(0, ippkt.PortUnreachable.Message(remote.Addr()), &q)
	if len(l.packets) != 1 {
		t.Fatalf("%d packets", len(l.packets))
	}
	p := l.packets[0]
	if got, ok := ippkt.QuotedUDP(p[ippkt.IPv4Len+ippkt.ICMPLen:]); !ok || got != remote || netip.AddrFrom4([4]byte(p[16:20])) != app.Addr() {
		t.Errorf("%x", p)
	}
	o.ICMP(0, ippkt.PortUnreachable.Message(netip.IPv6Loopback()), &q)
	if len(l.packets) != 1 {
		t.Error("an error of one family about a packet of the other")
	}
	l.full = true
	o.ICMP(0, ippkt.PortUnreachable.Message(remote.Addr()), &q)
	if o.Refused() != 1 {
		t.Errorf("%d refused, want 1", o.Refused())
	}
}
