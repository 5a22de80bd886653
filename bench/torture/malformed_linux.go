package main

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"netstackd/internal/ippkt"
)

// vnetLen is the length of the virtio header that goes before a packet.
const vnetLen = 10

// malformedRows are packets that are wrong.
func malformedRows() []row {
	return []row{
		{
			name: "malformed/IPv4 and IPv6, into the TUN", short: true,
			about: "100,000 packets at 20,000/s: truncated, lengths and options that lie, random bits turned",
			load:  tunFlood(20_000, 100_000, malformed(tunAddr4, tunAddr6)),
		},
		{
			name: "malformed/from the LAN", gateway: true,
			about: "the same from the LAN, as far as the kernel forwards them",
			load:  lanFlood(20_000, 100_000, malformed(addr4(10, 88, 0x303), addr6(0xfd, 0x88, 3))),
		},
		{
			name: "malformed/GSO headers", short: true,
			about: "100,000 packets at 20,000/s whose virtio headers lie, as far as the kernel takes them",
			load:  badGSO,
		},
		{
			name:  "malformed/segments of no connection",
			about: "100,000 TCP segments at 20,000/s with random flags, numbers and options",
			load: tunFlood(20_000, 100_000, func(i int, r *rand.Rand) []byte {
				from := netip.AddrPortFrom(tunAddr4, uint16(1024+r.IntN(60_000)))
				to := netip.AddrPortFrom(addr4(10, 78, r.IntN(1000)), uint16(7000+r.IntN(3)))
				return tcpPacket(from, to, byte(r.Uint32())&^flagSYN, r.Uint32(), randomBytes(r, 4*r.IntN(11)), at(int64(i), r.IntN(1000)))
			}),
		},
	}
}

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// malformed makes a right packet and spoils it.
func malformed(src4, src6 netip.Addr) maker {
	return func(i int, r *rand.Rand) []byte {
		src, dst := src4, addr4(10, 78, r.IntN(1000))
		if r.IntN(2) == 0 {
			src, dst = src6, addr6(0xfd, 0x78, r.IntN(1000))
		}
		return spoil(rightPacket(src, dst, i, r), r)
	}
}

func rightPacket(src, dst netip.Addr, i int, r *rand.Rand) []byte {
	from, to := netip.AddrPortFrom(src, uint16(1024+r.IntN(60_000))), netip.AddrPortFrom(dst, portEcho)
	payload := at(int64(i), r.IntN(600))
	switch r.IntN(6) {
	case 0:
		return tcpPacket(from, to, flagSYN, r.Uint32(), badOptions(r), nil)
	case 1:
		return tcpPacket(from, to, byte(r.Uint32()), r.Uint32(), badOptions(r), payload)
	case 2:
		return udpPacket(from, to, payload)
	case 3:
		return icmpEcho(src, dst, 9, uint16(i), payload)
	case 4: // an ICMP error that quotes nonsense
		kind, proto := byte(3), byte(ippkt.ProtoICMP)
		if src.Is6() {
			kind, proto = 1, ippkt.ProtoICMPv6
		}
		return ipPacket(src, dst, proto, append([]byte{kind, byte(r.IntN(16)), 0, 0, 0, 0, 0, 0}, payload...))
	}
	// Headers that lead to headers, or to nothing.
	return ipPacket(src, dst, byte(r.Uint32()), payload)
}

// badOptions are TCP options with lengths of zero, beyond the header, or of
// another kind.
func badOptions(r *rand.Rand) []byte {
	b := make([]byte, 4*(1+r.IntN(10)))
	for i := range b {
		b[i] = []byte{0, 1, 2, 3, 4, 5, 8, 30, 34, 255}[r.IntN(10)]
	}
	return b
}

// spoil breaks one thing about a packet.
func spoil(b []byte, r *rand.Rand) []byte {
	switch r.IntN(7) {
	case 0: // cut short, with a length that still claims all of it
		return b[:r.IntN(len(b))]
	case 1: // a length that lies
		at := 2
		if b[0]>>4 == 6 {
			at = 4
		}
		binary.BigEndian.PutUint16(b[at:], uint16(r.Uint32()))
	case 2: // a header length that lies
		b[0] = b[0]&0xf0 | byte(r.IntN(16))
	case 3: // a transport header that lies about its length
		if at := headerLen(b) + 12; at < len(b) {
			b[at] = byte(r.IntN(16)) << 4
		}
	case 4: // a version that does not exist
		b[0] = b[0]&0x0f | byte(r.IntN(16))<<4
	case 5: // bits turned
		for range 1 + r.IntN(8) {
			b[r.IntN(len(b))] ^= 1 << r.IntN(8)
		}
	case 6: // the source is the destination, loopback, multicast, unspecified or broadcast
		if b[0]>>4 == 4 {
			copy(b[12:16], [][]byte{b[16:20], {127, 0, 0, 1}, {224, 0, 0, 1}, {0, 0, 0, 0}, {255, 255, 255, 255}}[r.IntN(5)])
		}
	}
	if b[0]>>4 == 4 && len(b) >= 20 && r.IntN(4) > 0 { // else its checksum stops it
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], ^ippkt.Sum(b[:20], 0))
	}
	return b
}

func headerLen(b []byte) int {
	if b[0]>>4 == 6 {
		return 40
	}
	return int(b[0]&15) * 4
}

// badGSOPacket makes super-packets whose virtio headers lie about type, sizes and
// offsets (virtio 1.2 §5.1.6).
func badGSOPacket(i int, r *rand.Rand) []byte {
	src, dst := tunAddr4, addr4(10, 78, r.IntN(1000))
	if r.IntN(2) == 0 {
		src, dst = tunAddr6, addr6(0xfd, 0x78, r.IntN(1000))
	}
	from, to := netip.AddrPortFrom(src, uint16(1024+r.IntN(60_000))), netip.AddrPortFrom(dst, portEcho)
	// The kernel cuts a packet up before it drops it for its header. Segments of one
	// byte would make millions of packets a second, which the TUN's queue can't hold:
	// a flood, and not what this is about.
	const segments = 128 // UDP_MAX_SEGMENTS (linux/udp.h)
	size := oneOf(r, 0, 1, 8, 1400, 60_000)
	payload := at(int64(i%1000), r.IntN(min(20_000, segments*max(1, int(size)))))
	packet := udpPacket(from, to, payload)
	if r.IntN(2) == 0 {
		packet = tcpPacket(from, to, 0x18, r.Uint32(), nil, payload)
	}
	h := make([]byte, vnetLen, vnetLen+len(packet))
	h[0] = byte(r.IntN(4))                                                // flags
	h[1] = []byte{0, 1, 3, 4, 5, 0x81, 0x84, byte(r.Uint32())}[r.IntN(8)] // gso_type
	binary.NativeEndian.PutUint16(h[2:], oneOf(r, headerLen(packet)+20, headerLen(packet)+8))
	binary.NativeEndian.PutUint16(h[4:], size)
	binary.NativeEndian.PutUint16(h[6:], oneOf(r, headerLen(packet)))
	binary.NativeEndian.PutUint16(h[8:], oneOf(r, 16, 6))
	return append(h, packet...)
}

// oneOf is one of the values, or any other.
func oneOf(r *rand.Rand, values ...int) uint16 {
	if r.IntN(4) == 0 {
		return uint16(r.Uint32())
	}
	return uint16(values[r.IntN(len(values))])
}

func badGSO(ctx context.Context, r *run) error {
	j, err := r.net.intoTUN(true)
	if err != nil {
		return err
	}
	return j.flood(ctx, r, 20_000, 100_000, badGSOPacket)
}
