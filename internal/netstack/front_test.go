package netstack_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"netstackd/internal/netstack"
	"netstackd/tun/tuntest"
)

// seen is a Packet with its memory.
type seen struct {
	netstack.Packet
	network, transport, payload []byte
}

// recorder is a PacketHandler that keeps what it is given.
type recorder struct {
	packets chan seen
	refuse  bool
}

func newRecorder() *recorder { return &recorder{packets: make(chan seen, 1000)} }

func (r *recorder) HandlePacket(p *netstack.Packet) bool {
	s := seen{Packet: *p, network: bytes.Clone(p.Network), transport: bytes.Clone(p.Transport)}
	s.payload = slices.Concat(p.AppendPayload(nil)...)
	if !bytes.Equal(s.payload, p.Buf.Data().AsRange().ToSlice()) {
		panic("AppendPayload and Buf disagree")
	}
	r.packets <- s
	return !r.refuse
}

func (*recorder) Flush() {}

// handled returns what the handler got of all that was injected so far.
func (r *recorder) handled(t testing.TB, dev *tuntest.Device) []seen {
	t.Helper()
	silence(t, dev)
	var out []seen
	for len(r.packets) > 0 {
		out = append(out, <-r.packets)
	}
	return out
}

// What no router would forward is dropped and counted, not answered.
func TestFrontUnroutable(t *testing.T) {
	a4, a6 := appV4.Addr(), appV6.Addr()
	addr := netip.MustParseAddr
	rec := newRecorder()
	dev, own := alone(t, tuntest.Config{}, netstack.Config{Packets: rec, Connect: func(r *netstack.Request) {
		t.Errorf("a request for %s", r.Dest())
		r.Refuse()
	}})
	n := uint64(0)
	for _, c := range []struct{ src, dst netip.Addr }{
		{a4, addr("224.0.0.1")}, {a4, addr("239.1.2.3")}, {a4, addr("255.255.255.255")}, {a4, addr("240.0.0.1")},
		{a4, addr("10.0.0.255")}, {a4, addr("10.0.0.0")}, {a4, addr("127.0.0.1")}, {a4, addr("0.0.0.0")}, {a4, addr("0.1.2.3")},
		{addr("0.0.0.0"), foreignV4}, {addr("127.0.0.1"), foreignV4}, {addr("224.0.0.1"), foreignV4}, {addr("255.255.255.255"), ownV4.Addr()},
		{ownV4.Addr(), foreignV4}, {ownV4.Addr(), ownV4.Addr()}, {addr("10.0.0.255"), ownV4.Addr()}, {ownV6.Addr(), ownV6.Addr()},
		{a6, addr("ff02::1")}, {a6, addr("ff0e::1")}, {a6, addr("::1")}, {a6, addr("::")},
		{addr("::"), foreignV6}, {addr("::1"), foreignV6}, {addr("ff02::1"), ownV6.Addr()}, {addr("::ffff:1.2.3.4"), foreignV6}, {a6, addr("::ffff:1.2.3.4")},
	} {
		src, dst := netip.AddrPortFrom(c.src, 1000), netip.AddrPortFrom(c.dst, 2000)
		packets := [][]byte{udp(src, dst, []byte("x")), tcp(src, dst, flagSYN, 1, 0, nil), echo(c.src, c.dst, 1, nil), ip(c.src, c.dst, 99, []byte("unknown"))}
		if c.src.Is4() {
			packets = append(packets,
				ip4(c.src, c.dst, protoUDP, 7, 0, []byte{1, 1, 1, 0}, udpSegment(src, dst, nil)),
				ip4(c.src, c.dst, protoUDP, 7, 0x2000, nil, udpSegment(src, dst, make([]byte, 8))))
		}
		for _, p := range packets {
			inject(t, dev, p)
			n++
		}
	}
	if got := rec.handled(t, dev); len(got) != 0 {
		t.Errorf("handled %+v", got)
	}
	if st := own.Stats(); st.Unroutable != n || st.Malformed != 0 {
		t.Errorf("%d unroutable and %d malformed of %d", st.Unroutable, st.Malformed, n)
	}
}

// A foreign packet arrives whole, with all that the handler is promised.
func TestFrontForeign(t *testing.T) {
	for _, plain := range []bool{false, true} {
		for i, app := range []netip.Addr{appV4.Addr(), appV6.Addr()} {
			t.Run(fmt.Sprintf("plain=%v/%s", plain, app), func(t *testing.T) {
				rec := newRecorder()
				dev, _ := alone(t, tuntest.Config{Plain: plain}, netstack.Config{Packets: rec})
				dst := []netip.Addr{foreignV4, foreignV6}[i]
				from, to := netip.AddrPortFrom(app, 1000), netip.AddrPortFrom(dst, 2000)
				for _, size := range []int{0, 1, 90, 1472, 3000, 65507, 65527} {
					if size > 65507 && app.Is4() {
						continue
					}
					payload := bytes.Repeat([]byte{'p'}, size)
					p := udp(from, to, payload)
					if app.Is4() {
						p[1], p[6], p[8] = 0xb8, 0x40, 33 // EF, don't fragment
						p[10], p[11] = 0, 0
						be.PutUint16(p[10:], sum(p[:20]))
					} else {
						p[0], p[1], p[7] = 0x6b, 0x80, 33
					}
					inject(t, dev, append(p, "padding"...))
					got := recv(t, rec.packets)
					hdr := len(p) - size - 8
					if got.Src != app || got.Dst != dst || got.Proto != protoUDP || got.TTL != 33 || got.TOS != 0xb8 || !got.DF || got.GSOSize != 0 ||
						!bytes.Equal(got.network, p[:hdr]) || !bytes.Equal(got.transport, p[hdr:hdr+8]) || !bytes.Equal(got.payload, payload) {
						t.Fatalf("%d bytes: got %+v with %d bytes", size, got.Packet, len(got.payload))
					}
				}
				proto, msg := echoMessage(app, dst, 0x1234, []byte("ping"))
				inject(t, dev, ip(app, dst, proto, msg))
				got := recv(t, rec.packets)
				if got.Proto != proto || !bytes.Equal(got.transport, msg[:8]) || string(got.payload) != "ping" || got.DF != app.Is6() {
					t.Fatalf("got %+v", got)
				}
				// One flow, one queue.
				inject(t, dev, udp(from, to, nil))
				inject(t, dev, udp(from, netip.AddrPortFrom(dst, 9), nil))
				if a, b := recv(t, rec.packets), recv(t, rec.packets); a.Hash != b.Hash {
					t.Fatal("one source, two hashes")
				}
			})
		}
	}
}

// What gVisor has to put together is handed over as if it had come whole.
func TestFrontReassembles(t *testing.T) {
	rec := newRecorder()
	requests := make(chan *netstack.Request, 10)
	dev, own := alone(t, tuntest.Config{}, netstack.Config{Packets: rec, Connect: func(r *netstack.Request) { requests <- r }})
	for i, app := range []netip.Addr{appV4.Addr(), appV6.Addr()} {
		dst := []netip.Addr{foreignV4, foreignV6}[i]
		from, to := netip.AddrPortFrom(app, 1000), netip.AddrPortFrom(dst, 2000)
		payload := bytes.Repeat([]byte("0123456789"), 300)
		for _, reverse := range []bool{false, true} {
			// A datagram.
			for _, f := range fragments(app, dst, protoUDP, 100, udpSegment(from, to, payload), reverse) {
				inject(t, dev, f)
			}
			got := rec.handled(t, dev)
			if len(got) != 1 || !bytes.Equal(got[0].payload, payload) || got[0].Src != app || got[0].Dst != dst || be.Uint16(got[0].transport) != 1000 {
				t.Fatalf("%s: datagram: %d packets %+v", app, len(got), got)
			}
			// A ping.
			proto, msg := echoMessage(app, dst, 0x1234, payload)
			for _, f := range fragments(app, dst, proto, 101, msg, reverse) {
				inject(t, dev, f)
			}
			got = rec.handled(t, dev)
			if len(got) != 1 || !bytes.Equal(got[0].payload, payload) || !bytes.Equal(got[0].transport, msg[:8]) {
				t.Fatalf("%s: ping: %d packets %+v", app, len(got), got)
			}
			// A damaged datagram.
			bad := udpSegment(from, to, payload)
			bad[len(bad)-1]++
			before := own.Stats().Malformed
			for _, f := range fragments(app, dst, protoUDP, 102, bad, reverse) {
				inject(t, dev, f)
			}
			if got := rec.handled(t, dev); len(got) != 0 || own.Stats().Malformed != before+1 {
				t.Fatalf("%s: a damaged datagram: %+v, %+v", app, got, own.Stats())
			}
			// A SYN, with options enough to need two.
			syn := tcpSegment(from, to, flagSYN, 5, 0, nil)
			syn = append(syn, 2, 4, 5, 0xb4, 1, 1, 1, 1)
			syn[12] = 7 << 4
			syn[16], syn[17] = 0, 0
			be.PutUint16(syn[16:], sum(pseudo(app, dst, protoTCP, len(syn)), syn))
			for _, f := range fragments(app, dst, protoTCP, 103, syn, reverse) {
				inject(t, dev, f)
			}
			r := recv(t, requests)
			if r.Source() != from || r.Dest() != to {
				t.Fatalf("request from %s to %s", r.Source(), r.Dest())
			}
			r.Refuse()
			if rst := parse(t, answer(t, dev)); rst.payload[13]&flagRST == 0 {
				t.Fatalf("answer %+v", rst)
			}
			// A damaged SYN.
			syn[4]++
			for _, f := range fragments(app, dst, protoTCP, 104, syn, reverse) {
				inject(t, dev, f)
			}
			silence(t, dev)
			if len(requests) != 0 {
				t.Fatalf("%s: a damaged SYN was taken", app)
			}
		}
	}
}

// fragments cuts a transport packet into two IP fragments.
func fragments(src, dst netip.Addr, proto uint8, id uint16, b []byte, reverse bool) [][]byte {
	cut := len(b) / 2 &^ 7
	var out [][]byte
	if src.Is4() {
		out = [][]byte{ip4(src, dst, proto, id, 0x2000, nil, b[:cut]), ip4(src, dst, proto, id, uint16(cut/8), nil, b[cut:])}
	} else {
		fragment := func(off uint16, more byte, b []byte) []byte {
			h := []byte{proto, 0, byte(off >> 8), byte(off) | more, 0, 0, byte(id >> 8), byte(id)}
			return ip6(src, dst, 44, append(h, b...))
		}
		out = [][]byte{fragment(0, 1, b[:cut]), fragment(uint16(cut), 0, b[cut:])}
	}
	if reverse {
		slices.Reverse(out)
	}
	return out
}

// Options and extension headers do not change where a packet goes, and gVisor
// must not answer foreign pings that carry them.
func TestFrontOptions(t *testing.T) {
	rec := newRecorder()
	requests := make(chan *netstack.Request, 10)
	dev, _ := alone(t, tuntest.Config{}, netstack.Config{Packets: rec, Connect: func(r *netstack.Request) { requests <- r }})
	from4, to4 := netip.AddrPortFrom(appV4.Addr(), 1000), netip.AddrPortFrom(foreignV4, 2000)
	from6, to6 := netip.AddrPortFrom(appV6.Addr(), 1000), netip.AddrPortFrom(foreignV6, 2000)
	nops := []byte{1, 1, 1, 0}
	router := []byte{0x94, 4, 0, 0}
	hopByHop := func(next uint8, b []byte) []byte {
		return ip6(from6.Addr(), to6.Addr(), 0, append([]byte{next, 0, 1, 4, 0, 0, 0, 0}, b...))
	}
	dstOpts := func(next uint8, b []byte) []byte {
		return ip6(from6.Addr(), to6.Addr(), 60, append([]byte{next, 0, 1, 4, 0, 0, 0, 0}, b...))
	}
	proto4, ping4 := echoMessage(from4.Addr(), to4.Addr(), 0x1234, []byte("ping"))
	proto6, ping6 := echoMessage(from6.Addr(), to6.Addr(), 0x1234, []byte("ping"))
	for _, p := range [][]byte{
		ip4(from4.Addr(), to4.Addr(), protoUDP, 1, 0, nops, udpSegment(from4, to4, []byte("ping"))),
		ip4(from4.Addr(), to4.Addr(), protoUDP, 1, 0, router, udpSegment(from4, to4, []byte("ping"))),
		ip4(from4.Addr(), to4.Addr(), proto4, 1, 0, nops, ping4),
		ip4(from4.Addr(), to4.Addr(), proto4, 1, 0, router, ping4),
		hopByHop(protoUDP, udpSegment(from6, to6, []byte("ping"))),
		dstOpts(protoUDP, udpSegment(from6, to6, []byte("ping"))),
		hopByHop(proto6, ping6),
		dstOpts(proto6, ping6),
	} {
		inject(t, dev, p)
		got := rec.handled(t, dev)
		if len(got) != 1 || string(got[0].payload) != "ping" || len(got[0].transport) != 8 {
			t.Fatalf("%x: handled %+v", p, got)
		}
	}
	for _, p := range [][]byte{
		ip4(from4.Addr(), to4.Addr(), protoTCP, 1, 0, nops, tcpSegment(from4, to4, flagSYN, 1, 0, nil)),
		hopByHop(protoTCP, tcpSegment(from6, to6, flagSYN, 1, 0, nil)),
		dstOpts(protoTCP, tcpSegment(from6, to6, flagSYN, 1, 0, nil)),
	} {
		inject(t, dev, p)
		recv(t, requests).Ignore()
		silence(t, dev)
	}
}

// Trains of datagrams stay whole on their way to the handler, and are taken
// apart for the stack's own sockets.
func TestFrontTrains(t *testing.T) {
	rec := newRecorder()
	dev, own := alone(t, tuntest.Config{}, netstack.Config{Packets: rec})
	for i, app := range []netip.Addr{appV4.Addr(), appV6.Addr()} {
		from := netip.AddrPortFrom(app, 1000)
		hdr := []int{20, 40}[i]
		var payload []byte
		for j := range 40 {
			payload = append(payload, bytes.Repeat([]byte{byte(j)}, 1200)...)
		}
		payload = append(payload, "tail"...)
		train := func(to netip.AddrPort) tuntest.Packet {
			p := tuntest.Packet{Data: udp(from, to, payload)}
			p.Hdr[0], p.Hdr[1] = 1, 5
			for k, v := range []uint16{uint16(hdr + 8), 1200, uint16(hdr), 6} {
				p.Hdr[2+2*k], p.Hdr[3+2*k] = byte(v), byte(v>>8) // little-endian, as these machines are
			}
			return p
		}
		if err := dev.Inject(t.Context(), train(netip.AddrPortFrom([]netip.Addr{foreignV4, foreignV6}[i], 53))); err != nil {
			t.Fatal(err)
		}
		if got := recv(t, rec.packets); got.GSOSize != 1200 || !bytes.Equal(got.payload, payload) {
			t.Fatalf("got %d bytes in datagrams of %d", len(got.payload), got.GSOSize)
		}
		at := netip.AddrPortFrom([]netip.Addr{ownV4.Addr(), ownV6.Addr()}[i], 5353)
		c, err := own.ListenUDP(at)
		if err != nil {
			t.Fatal(err)
		}
		deadline(t, c)
		if err := dev.Inject(t.Context(), train(at)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 65535)
		for j := range 41 {
			want := payload[j*1200 : min((j+1)*1200, len(payload))]
			n, from2, err := c.ReadFrom(b)
			if err != nil || !bytes.Equal(b[:n], want) || from2.String() != from.String() {
				t.Fatalf("datagram %d: %d bytes from %v, %v", j, n, from2, err)
			}
		}
		c.Close()
		if err := dev.Inject(t.Context(), train(at)); err != nil {
			t.Fatal(err)
		}
		parseUnreachable(t, answer(t, dev)) // one for the whole train
		silence(t, dev)
	}
}

// Headers that promise more than there is, or less than they need, are
// malformed, whether or not a link has looked before.
func TestFrontLies(t *testing.T) {
	from4, to4 := netip.AddrPortFrom(appV4.Addr(), 1000), netip.AddrPortFrom(foreignV4, 2000)
	from6, to6 := netip.AddrPortFrom(appV6.Addr(), 1000), netip.AddrPortFrom(foreignV6, 2000)
	length4 := func(p []byte, n int) []byte {
		be.PutUint16(p[2:], uint16(n))
		p[10], p[11] = 0, 0
		be.PutUint16(p[10:], sum(p[:20]))
		return p
	}
	length6 := func(p []byte, n int) []byte {
		be.PutUint16(p[4:], uint16(n))
		return p
	}
	udpLength := func(p []byte, at, n int) []byte {
		be.PutUint16(p[at+4:], uint16(n))
		be.PutUint16(p[at+6:], 0)
		return p
	}
	hello := []byte("hello")
	for name, p := range map[string][]byte{
		"udp4 beyond":       length4(udp(from4, to4, hello), 34),
		"tcp4 beyond":       length4(tcp(from4, to4, flagSYN, 1, 0, nil), 41),
		"icmp4 beyond":      length4(echo(from4.Addr(), to4.Addr(), 1, hello), 1000),
		"tcp4 too short":    length4(tcp(from4, to4, flagSYN, 1, 0, nil), 39),
		"udp4 too short":    length4(udp(from4, to4, nil), 27),
		"icmp4 too short":   length4(echo(from4.Addr(), to4.Addr(), 1, nil), 27),
		"nothing":           length4(udp(from4, to4, hello), 20),
		"less than nothing": length4(udp(from4, to4, hello), 19),
		"udp6 beyond":       length6(udp(from6, to6, hello), 14),
		"tcp6 beyond":       length6(tcp(from6, to6, flagSYN, 1, 0, nil), 21),
		"icmp6 beyond":      length6(echo(from6.Addr(), to6.Addr(), 1, hello), 1000),
		"tcp6 too short":    length6(tcp(from6, to6, flagSYN, 1, 0, nil), 19),
		"udp6 too short":    length6(udp(from6, to6, hello), 7),
		"icmp6 too short":   length6(echo(from6.Addr(), to6.Addr(), 1, hello), 7),
		"udp length beyond": udpLength(udp(from4, to4, hello), 20, 14),
		"udp length of 7":   udpLength(udp(from4, to4, hello), 20, 7),
		"udp6 sum of 0":     udpLength(udp(from6, to6, hello), 40, 13),
	} {
		for _, plain := range []bool{false, true} {
			rec := newRecorder()
			dev, own := alone(t, tuntest.Config{Plain: plain}, netstack.Config{Packets: rec, Connect: func(r *netstack.Request) {
				t.Errorf("%s: a request", name)
				r.Refuse()
			}})
			inject(t, dev, p)
			if got := rec.handled(t, dev); len(got) != 0 {
				t.Errorf("%s, plain %v: handled %+v", name, plain, got)
			}
			if st := own.Stats(); st.Malformed+st.Link.RxBadChecksum+st.Link.RxMalformed != 1 {
				t.Errorf("%s, plain %v: counted %+v", name, plain, st)
			}
			own.Close()
		}
	}
}
