package link_test

import (
	"context"
	"encoding/binary"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"netstackd/link"
	"netstackd/tun/tuntest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// delivery is a packet as the stack got it.
type delivery struct {
	proto     tcpip.NetworkProtocolNumber
	data      []byte
	mss       uint16
	validated bool
}

// sink is a stack.NetworkDispatcher that keeps what it is given.
type sink struct {
	packets chan delivery
	gate    chan struct{} // if not nil, each delivery takes a token first
}

func newSink() *sink { return &sink{packets: make(chan delivery, 10000)} }

func (s *sink) DeliverNetworkPacket(proto tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	if s.gate != nil {
		<-s.gate
	}
	d := delivery{proto: proto, mss: pkt.GSOOptions.MSS, validated: pkt.RXChecksumValidated}
	d.data = pkt.Data().AsRange().ToSlice()
	s.packets <- d
}

func (*sink) DeliverLinkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer) {}

func (s *sink) next(t testing.TB) delivery {
	t.Helper()
	select {
	case d := <-s.packets:
		return d
	case <-time.After(patience):
		t.Fatal("no packet was delivered")
		panic("unreachable")
	}
}

// open returns an endpoint over dev that delivers to d until the test ends.
func open(t testing.TB, dev link.Device, cfg link.Config, d stack.NetworkDispatcher) *link.Endpoint {
	t.Helper()
	e, err := link.New(dev, cfg)
	if err != nil {
		t.Fatal(err)
	}
	e.Attach(d)
	t.Cleanup(func() { e.Attach(nil) })
	return e
}

func inject(t testing.TB, dev *tuntest.Device, hdr [link.VNetHdrLen]byte, data []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := dev.Inject(ctx, tuntest.Packet{Hdr: hdr, Data: data}); err != nil {
		t.Fatal(err)
	}
}

func written(t testing.TB, dev *tuntest.Device) tuntest.Packet {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	p, err := dev.Packet(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// sentinel pushes a packet through that is known to arrive, after everything
// that was injected before, and returns what arrived earlier.
func sentinel(t testing.TB, dev *tuntest.Device, s *sink) []delivery {
	t.Helper()
	mark := udpPacket(v4a, v4b, []byte("sentinel"))
	inject(t, dev, dataValid, mark)
	var before []delivery
	for {
		d := s.next(t)
		if string(d.data) == string(mark) {
			return before
		}
		before = append(before, d)
	}
}

var (
	v4a = netip.MustParseAddrPort("10.0.0.1:1000")
	v4b = netip.MustParseAddrPort("10.0.0.2:53")
	v6a = netip.MustParseAddrPort("[fd00::1]:1000")
	v6b = netip.MustParseAddrPort("[fd00::2]:53")

	noHdr     [link.VNetHdrLen]byte
	needsCsum = vnet(1, 0, 0, 0, 0, 0)
	dataValid = vnet(2, 0, 0, 0, 0, 0)
)

// vnet builds a struct virtio_net_hdr.
func vnet(flags, gso uint8, hdrLen, gsoSize, start, offset uint16) (h [link.VNetHdrLen]byte) {
	h[0], h[1] = flags, gso
	for i, v := range []uint16{hdrLen, gsoSize, start, offset} {
		binary.LittleEndian.PutUint16(h[2+2*i:], v)
	}
	return h
}

func addr(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

// ipPacket puts an IP header before a transport packet.
func ipPacket(src, dst netip.Addr, proto tcpip.TransportProtocolNumber, payload []byte) []byte {
	if src.Is4() {
		b := make([]byte, header.IPv4MinimumSize, header.IPv4MinimumSize+len(payload))
		h := header.IPv4(b)
		h.Encode(&header.IPv4Fields{TotalLength: uint16(len(b) + len(payload)), TTL: 64, Protocol: uint8(proto), SrcAddr: addr(src), DstAddr: addr(dst)})
		h.SetChecksum(^h.CalculateChecksum())
		return append(b, payload...)
	}
	b := make([]byte, header.IPv6MinimumSize, header.IPv6MinimumSize+len(payload))
	header.IPv6(b).Encode(&header.IPv6Fields{PayloadLength: uint16(len(payload)), TransportProtocol: proto, HopLimit: 64, SrcAddr: addr(src), DstAddr: addr(dst)})
	return append(b, payload...)
}

func udpPacket(src, dst netip.AddrPort, payload []byte) []byte {
	b := make([]byte, header.UDPMinimumSize, header.UDPMinimumSize+len(payload))
	b = append(b, payload...)
	u := header.UDP(b)
	u.Encode(&header.UDPFields{SrcPort: src.Port(), DstPort: dst.Port(), Length: uint16(len(b))})
	sum := header.PseudoHeaderChecksum(header.UDPProtocolNumber, addr(src.Addr()), addr(dst.Addr()), uint16(len(b)))
	u.SetChecksum(^checksum.Checksum(b, sum))
	return ipPacket(src.Addr(), dst.Addr(), header.UDPProtocolNumber, b)
}

func tcpPacket(src, dst netip.AddrPort, payload []byte) []byte {
	b := make([]byte, header.TCPMinimumSize, header.TCPMinimumSize+len(payload))
	b = append(b, payload...)
	h := header.TCP(b)
	h.Encode(&header.TCPFields{SrcPort: src.Port(), DstPort: dst.Port(), SeqNum: 7, AckNum: 9, DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagAck, WindowSize: 1000})
	sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, addr(src.Addr()), addr(dst.Addr()), uint16(len(b)))
	h.SetChecksum(^checksum.Checksum(b, sum))
	return ipPacket(src.Addr(), dst.Addr(), header.TCPProtocolNumber, b)
}

// failing is a device whose pending read fails oddly when it is closed.
type failing struct {
	*tuntest.Device
	once   sync.Once
	closed chan struct{}
}

func (f *failing) ReadPacket(int, *[link.VNetHdrLen]byte, [][]byte) (int, error) {
	<-f.closed
	return 0, syscall.EIO
}

func (f *failing) Close() error {
	f.once.Do(func() { close(f.closed) })
	return f.Device.Close()
}
