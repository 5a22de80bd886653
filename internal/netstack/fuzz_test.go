package netstack_test

import (
	"bytes"
	"net/netip"
	"testing"

	"netstackd/internal/netstack"
	"netstackd/tun/tuntest"
)

// FuzzFront sends two hostile packets, the second perhaps a fragment that fits
// the first. Nothing panics, no ping to a foreign address is answered by the
// stack itself, and the stack's own address goes on answering.
func FuzzFront(f *testing.F) {
	from4, to4 := netip.AddrPortFrom(appV4.Addr(), 1000), netip.AddrPortFrom(foreignV4, 2000)
	from6, to6 := netip.AddrPortFrom(appV6.Addr(), 1000), netip.AddrPortFrom(foreignV6, 2000)
	for _, p := range [][]byte{
		udp(from4, to4, []byte("x")), udp(from6, to6, []byte("x")),
		tcp(from4, to4, flagSYN, 1, 0, nil), tcp(from6, to6, flagACK, 1, 2, []byte("x")),
		echo(from4.Addr(), to4.Addr(), 1, []byte("ping")), echo(from6.Addr(), to6.Addr(), 1, []byte("ping")),
		udp(from4, netip.AddrPortFrom(ownV4.Addr(), 53), make([]byte, 3000)), echo(from6.Addr(), ownV6.Addr(), 7, nil),
	} {
		f.Add(p, p, byte(0))
		f.Add(p, p, byte(1))
	}
	_, ping := echoMessage(from4.Addr(), to4.Addr(), 1, make([]byte, 100))
	frags := fragments(from4.Addr(), to4.Addr(), protoICMP, 9, ping, false)
	f.Add(frags[0], frags[1], byte(0))
	_, ping = echoMessage(from6.Addr(), to6.Addr(), 1, make([]byte, 100))
	frags = fragments(from6.Addr(), to6.Addr(), protoICMPv6, 9, ping, true)
	f.Add(frags[0], frags[1], byte(0))
	f.Add(ip4(from4.Addr(), to4.Addr(), protoICMP, 1, 0, []byte{7, 7, 4, 0, 0, 0, 0, 0}, ping), frags[0], byte(0))

	f.Fuzz(func(t *testing.T, a, b []byte, flags byte) {
		if len(a) > 65535 || len(b) > 65535 {
			return
		}
		rec := newRecorder()
		rec.refuse = flags&2 != 0
		dev, _ := alone(t, tuntest.Config{Plain: flags&1 != 0}, netstack.Config{Packets: rec, Connect: (*netstack.Request).Refuse})
		for _, p := range [][]byte{a, b} {
			pkt := tuntest.Packet{Data: repair(p, flags)}
			if flags&1 == 0 {
				pkt.Hdr[0] = 2 // vouched for, or checksums would stop most
			}
			if err := dev.Inject(t.Context(), pkt); err != nil {
				t.Fatal(err)
			}
		}
		inject(t, dev, echo(appV4.Addr(), ownV4.Addr(), 0xdead, nil))
		for {
			got, ok := tryParse(answer(t, dev))
			if !ok {
				t.Fatal("the stack wrote an impossible packet")
			}
			foreign := got.src != ownV4.Addr() && got.src != ownV6.Addr()
			switch {
			case got.proto == protoICMP && got.payload[0] == 0, got.proto == protoICMPv6 && got.payload[0] == 129:
				if foreign {
					t.Fatalf("answered a ping to %s", got.src)
				}
				if bytes.Equal(got.payload[4:6], []byte{0xde, 0xad}) {
					return
				}
			}
		}
	})
}

// repair gives a packet an IPv4 checksum that gets it past the first look, if
// the flags say so.
func repair(p []byte, flags byte) []byte {
	if flags&4 != 0 || len(p) < 20 || p[0]>>4 != 4 {
		return p
	}
	p = bytes.Clone(p)
	if n := int(p[0]&15) * 4; n >= 20 && n <= len(p) {
		p[10], p[11] = 0, 0
		be.PutUint16(p[10:], sum(p[:n]))
	}
	return p
}
