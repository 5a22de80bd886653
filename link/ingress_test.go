package link_test

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"netstackd/link"
	"netstackd/tun/tuntest"
)

// What the kernel has vouched for passes as it is; what it has not is verified.
func TestIngressVerdicts(t *testing.T) {
	corrupt := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		if at < 0 {
			at += len(b)
		}
		b[at] ^= 0x10
		return b
	}
	udp4, udp6 := udpPacket(v4a, v4b, []byte("datagram")), udpPacket(v6a, v6b, []byte("datagram"))
	tcp4, tcp6 := tcpPacket(v4a, v4b, []byte("segment")), tcpPacket(v6a, v6b, []byte("segment"))
	noSum4, noSum6 := bytes.Clone(udp4), bytes.Clone(udp6)
	header.UDP(noSum4[20:]).SetChecksum(0)
	header.UDP(noSum6[40:]).SetChecksum(0)
	fragment := bytes.Clone(udp4)
	fragment[20+6] ^= 0xff // wrong for this part alone, as a fragment's is
	header.IPv4(fragment).SetFlagsFragmentOffset(header.IPv4FlagMoreFragments, 0)
	header.IPv4(fragment).SetChecksum(0)
	header.IPv4(fragment).SetChecksum(^header.IPv4(fragment).CalculateChecksum())
	// A datagram that ends before its IP packet does; the rest is padding.
	short := udpPacket(v4a, v4b, []byte("datagram"))
	short = ipPacket(v4a.Addr(), v4b.Addr(), header.UDPProtocolNumber, append(short[20:], "trailer"...))
	lie := bytes.Clone(tcp4)
	header.IPv4(lie).SetTotalLength(uint16(len(lie) + 1))
	header.IPv4(lie).SetChecksum(0)
	header.IPv4(lie).SetChecksum(^header.IPv4(lie).CalculateChecksum())
	lie6 := bytes.Clone(tcp6)
	header.IPv6(lie6).SetPayloadLength(uint16(len(lie6)))

	const (
		pass = iota
		badSum
		malformed
	)
	for _, c := range []struct {
		name string
		hdr  [link.VNetHdrLen]byte
		data []byte
		want int
	}{
		{"udp4", noHdr, udp4, pass},
		{"udp6", noHdr, udp6, pass},
		{"tcp4", noHdr, tcp4, pass},
		{"tcp6", noHdr, tcp6, pass},
		{"icmp4", noHdr, ipPacket(v4a.Addr(), v4b.Addr(), header.ICMPv4ProtocolNumber, make([]byte, 8)), pass},
		{"udp4 payload", noHdr, corrupt(udp4, -1), badSum},
		{"udp6 payload", noHdr, corrupt(udp6, -1), badSum},
		{"tcp4 payload", noHdr, corrupt(tcp4, -1), badSum},
		{"tcp6 payload", noHdr, corrupt(tcp6, -1), badSum},
		{"tcp6 address", noHdr, corrupt(tcp6, 10), badSum},
		{"ip4 header", noHdr, corrupt(udp4, 8), badSum},
		{"udp4 without checksum", noHdr, noSum4, pass},
		{"udp6 without checksum", noHdr, noSum6, badSum},
		{"fragment", noHdr, fragment, pass},
		{"trailer in udp", noHdr, short, pass},
		{"padding", noHdr, append(bytes.Clone(tcp4), 0xff, 0xff, 0xff), pass},
		{"padding6", noHdr, append(bytes.Clone(udp6), 0xff, 0xff, 0xff), pass},
		{"ip4 length beyond the packet", noHdr, lie, badSum},
		{"ip6 length beyond the packet", noHdr, lie6, badSum},
		{"truncated tcp", noHdr, ipPacket(v4a.Addr(), v4b.Addr(), header.TCPProtocolNumber, make([]byte, 19)), badSum},
		{"truncated udp", noHdr, ipPacket(v6a.Addr(), v6b.Addr(), header.UDPProtocolNumber, make([]byte, 7)), badSum},
		{"vouched for", dataValid, corrupt(udp4, -1), pass},
		{"left to do", vnet(1, 0, 0, 0, 20, 6), corrupt(udp4, -1), pass},
		{"checksum at the very end", vnet(1, 0, 0, 0, 20, uint16(len(udp4)-22)), udp4, pass},
		{"checksum beyond the packet", vnet(1, 0, 0, 0, 20, uint16(len(udp4)-21)), udp4, malformed},
		{"checksum start beyond the packet", vnet(1, 0, 0, 0, 0xffff, 0xffff), udp4, malformed},
		{"segments of nothing", vnet(1, 1, 40, 0, 20, 16), tcp4, malformed},
		{"unknown segmentation", vnet(1, 3, 40, 1000, 20, 16), tcp4, malformed},
		{"ecn", vnet(1, 0x81, 40, 1000, 20, 16), tcp4, pass},
		{"empty", noHdr, nil, malformed},
		{"19 bytes", noHdr, udp4[:19], malformed},
		{"39 bytes of ip6", noHdr, udp6[:39], malformed},
		{"version 0", dataValid, append([]byte{0x05}, udp4[1:]...), malformed},
		{"version 5", dataValid, append([]byte{0x55}, udp4[1:]...), malformed},
		{"header length 4", noHdr, append([]byte{0x41}, udp4[1:]...), badSum},
		{"header length 60", noHdr, append([]byte{0x4f}, udp4[1:]...), badSum},
	} {
		t.Run(c.name, func(t *testing.T) {
			dev := tuntest.New(tuntest.Config{})
			s := newSink()
			e := open(t, dev, link.Config{}, s)
			inject(t, dev, c.hdr, c.data)
			got := sentinel(t, dev, s)
			st := e.Stats()
			if (len(got) == 1) != (c.want == pass) || st.RxBadChecksum != b2u(c.want == badSum) || st.RxMalformed != b2u(c.want == malformed) {
				t.Fatalf("%d delivered, %+v", len(got), st)
			}
			if c.want == pass && !bytes.HasPrefix(c.data, got[0].data) {
				t.Fatalf("delivered %x, want %x", got[0].data, c.data)
			}
		})
	}
}

func b2u(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// A plain device vouches for nothing, and claims no offload: the stack
// verifies for itself.
func TestPlainDevice(t *testing.T) {
	dev := tuntest.New(tuntest.Config{Plain: true})
	s := newSink()
	e := open(t, dev, link.Config{}, s)
	if e.Capabilities()&stack.CapabilityRXChecksumOffload != 0 || e.SupportedGSO() != stack.GSONotSupported || e.USO() {
		t.Fatal("a plain device has offloads")
	}
	bad := udpPacket(v4a, v4b, []byte("datagram"))
	bad[len(bad)-1]++
	inject(t, dev, noHdr, bad)
	if d := s.next(t); !bytes.Equal(d.data, bad) || d.validated {
		t.Fatalf("delivered %+v", d)
	}
}

func TestVNetDeviceClaims(t *testing.T) {
	e := open(t, tuntest.New(tuntest.Config{NoUSO: true}), link.Config{}, newSink())
	if e.Capabilities() != stack.CapabilityRXChecksumOffload || e.SupportedGSO() != stack.HostGSOSupported || e.USO() {
		t.Fatalf("capabilities %v, gso %v, uso %v", e.Capabilities(), e.SupportedGSO(), e.USO())
	}
}

// Packets of all sizes arrive whole, whatever views the ones before used up.
func TestIngressSizes(t *testing.T) {
	dev := tuntest.New(tuntest.Config{})
	s := newSink()
	open(t, dev, link.Config{}, s)
	rng := rand.New(rand.NewPCG(1, 2))
	sizes := []int{28, 29, 127, 128, 129, 1500, 2175, 2176, 2177, 16384, 16385, 65535}
	for range 300 {
		n := sizes[rng.IntN(len(sizes))]
		if rng.IntN(3) == 0 {
			n = 28 + rng.IntN(65535-27)
		}
		payload := make([]byte, n-28)
		for i := range payload {
			payload[i] = byte(rng.Uint32())
		}
		p := udpPacket(v4a, v4b, payload)
		hdr := noHdr
		if rng.IntN(2) == 0 {
			hdr = vnet(1, link.GSOUDP, 28, 1200, 20, 6)
		}
		inject(t, dev, hdr, p)
		d := s.next(t)
		if !bytes.Equal(d.data, p) || d.proto != header.IPv4ProtocolNumber {
			t.Fatalf("%d bytes arrived changed as %d", len(p), len(d.data))
		}
		if want := uint16(b2u(hdr != noHdr)) * 1200; d.mss != want {
			t.Fatalf("segment size %d, want %d", d.mss, want)
		}
	}
}

// A flood of ICMP that the stack is too slow for is dropped beyond its share of
// the queue. It neither stops the reader nor takes the place of others.
func TestIngressICMPShare(t *testing.T) {
	for _, c := range []struct {
		name string
		ping []byte
	}{
		{"IPv4", ipPacket(v4a.Addr(), v4b.Addr(), header.ICMPv4ProtocolNumber, make([]byte, 8))},
		{"IPv6", ipPacket(v6a.Addr(), v6b.Addr(), header.ICMPv6ProtocolNumber, make([]byte, 8))},
	} {
		t.Run(c.name, func(t *testing.T) {
			dev := tuntest.New(tuntest.Config{})
			s := newSink()
			s.gate = make(chan struct{})
			release := sync.OnceFunc(func() { close(s.gate) })
			defer release() // or the endpoint would not close
			const queueLen, flood = 64, 1000
			const most = queueLen/4 + 1 // one is on its way to the stack
			e := open(t, dev, link.Config{QueueLen: queueLen, Batch: 1}, s)
			for range flood {
				inject(t, dev, dataValid, c.ping)
			}
			for end := time.Now().Add(patience); e.Stats().RxCrowded < flood-most; runtime.Gosched() {
				if time.Now().After(end) {
					t.Fatalf("%+v", e.Stats())
				}
			}
			tcp := tcpPacket(v4a, v4b, []byte("segment"))
			for range queueLen / 2 {
				inject(t, dev, dataValid, tcp)
			}
			inject(t, dev, dataValid, tcp)
			release()
			pings, others := 0, 0
			for others <= queueLen/2 {
				if d := s.next(t); bytes.Equal(d.data, tcp) {
					others++
				} else {
					pings++
				}
			}
			st := e.Stats()
			if pings > most {
				t.Errorf("%d of %d pings delivered, want at most %d", pings, flood, most)
			}
			if st.RxCrowded != uint64(flood-pings) || st.QueueWaits != 0 {
				t.Errorf("%d dropped, the reader waited %d times", st.RxCrowded, st.QueueWaits)
			}
			inject(t, dev, dataValid, c.ping)
			if d := s.next(t); !bytes.Equal(d.data, c.ping) {
				t.Error("no ping after the flood")
			}
		})
	}
}

// A flood of ICMP of one host is cut to what one host may send. It costs no
// other host's packets, and no other protocol's.
func TestIngressICMPRate(t *testing.T) {
	const flood, rate, burst = 20_000, 2000, 1000
	dev := tuntest.New(tuntest.Config{})
	s := newSink()
	e := open(t, dev, link.Config{QueueLen: 8 * flood}, s) // ICMP's share of it is no limit
	ping := func(last byte) []byte {
		src := netip.AddrFrom4([4]byte{10, 0, 0, last})
		return ipPacket(src, v4b.Addr(), header.ICMPv4ProtocolNumber, make([]byte, 8))
	}
	flooder, tcp := ping(1), tcpPacket(v4a, v4b, []byte("segment"))
	start := time.Now()
	for range flood {
		inject(t, dev, dataValid, flooder)
	}
	for _, p := range [][]byte{ping(2), ping(3), ping(4), ping(5), tcp} {
		inject(t, dev, dataValid, p)
	}
	own, others := 0, 0
	for d := s.next(t); !bytes.Equal(d.data, tcp); d = s.next(t) {
		if bytes.Equal(d.data, flooder) {
			own++
		} else {
			others++
		}
	}
	if most := burst + 1 + int(rate*time.Since(start).Seconds()); own > most {
		t.Errorf("%d of %d packets of the flood, want at most %d", own, flood, most)
	}
	if others < 3 { // one may share the flooder's bucket
		t.Errorf("%d of 4 packets of other hosts", others)
	}
	if st := e.Stats(); int(st.RxCrowded) != flood+4-own-others {
		t.Errorf("%d dropped of %d, %d delivered", st.RxCrowded, flood+4, own+others)
	}
}
