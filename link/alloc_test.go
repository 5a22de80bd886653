package link_test

import (
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"netstackd/link"
	"netstackd/tun/tuntest"
)

// still is a device that holds one packet and forgets what is written, so that
// only the link's own allocations count.
type still struct {
	*tuntest.Device
	packet  []byte
	reads   chan struct{}
	vouched bool // no checksum to verify
}

func (d *still) ReadPacket(_ int, hdr *[link.VNetHdrLen]byte, bufs [][]byte) (int, error) {
	if d.vouched {
		*hdr = dataValid
	}
	if _, ok := <-d.reads; !ok {
		return 0, errClosed{}
	}
	n := 0
	for _, b := range bufs {
		n += copy(b, d.packet[n:])
	}
	return n, nil
}

func (*still) WritePacket(int, *[link.VNetHdrLen]byte, [][]byte) error { return nil }

func (d *still) Close() error {
	d.Device.Close()
	close(d.reads)
	return nil
}

type errClosed struct{}

func (errClosed) Error() string { return "closed" }

// counting is a dispatcher that only says that a packet came.
type counting chan struct{}

func (c counting) DeliverNetworkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer) {
	c <- struct{}{}
}
func (counting) DeliverLinkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer) {}

func TestSteadyStateDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	for _, size := range []int{0, 1000, 60000} {
		dev := &still{Device: tuntest.New(tuntest.Config{}), packet: udpPacket(v4a, v4b, make([]byte, size)), reads: make(chan struct{})}
		got := make(counting, 1)
		e := open(t, dev, link.Config{}, got)
		if n := testing.AllocsPerRun(500, func() {
			dev.reads <- struct{}{}
			<-got
		}); n > 0 {
			t.Errorf("ingress of %d bytes: %v allocations a packet", size, n)
		}
		pkt, _ := segment(size, false, stack.GSO{Type: stack.GSOTCPv4, NeedsCsum: true, CsumOffset: 16, MSS: 1460, L3HdrLen: 20})
		var list stack.PacketBufferList
		list.PushBack(pkt)
		if n := testing.AllocsPerRun(500, func() { e.WritePackets(list) }); n > 0 {
			t.Errorf("egress of %d bytes: %v allocations a packet", size, n)
		}
		list.DecRef()
		raw := [][]byte{make([]byte, 28), make([]byte, size)}
		if n := testing.AllocsPerRun(500, func() { e.WriteRaw(1, link.Offload{}, raw) }); n > 0 {
			t.Errorf("raw egress of %d bytes: %v allocations a packet", size, n)
		}
	}
}
