//go:build linux

package bench_test

import (
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"netstackd/link"
)

// wheel is a device that has a packet ready whenever one is asked for, until it
// has given as many as it may, and takes any.
type wheel struct {
	hdr    [link.VNetHdrLen]byte
	packet []byte
	left   atomic.Int64
	closed chan struct{}
}

func newWheel(hdr [link.VNetHdrLen]byte, packet []byte) *wheel {
	return &wheel{hdr: hdr, packet: packet, closed: make(chan struct{})}
}

func (*wheel) Queues() int       { return 1 }
func (*wheel) VNetHdr() bool     { return true }
func (*wheel) USO() bool         { return true }
func (*wheel) MTU() (int, error) { return 65000, nil }

func (w *wheel) ReadPacket(_ int, hdr *[link.VNetHdrLen]byte, bufs [][]byte) (n int, err error) {
	if w.left.Add(-1) < 0 {
		<-w.closed
		return 0, os.ErrClosed
	}
	*hdr = w.hdr
	for _, b := range bufs {
		n += copy(b, w.packet[n:])
	}
	return n, nil
}

func (w *wheel) WritePacket(int, *[link.VNetHdrLen]byte, [][]byte) error { return nil }

func (w *wheel) Close() error {
	select {
	case <-w.closed:
	default:
		close(w.closed)
	}
	return nil
}

// dispatcher counts what is delivered.
type dispatcher struct {
	left atomic.Int64
	done chan struct{}
}

func (d *dispatcher) DeliverNetworkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer) {
	if d.left.Add(-1) == 0 {
		close(d.done)
	}
}

func (*dispatcher) DeliverLinkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer) {}

// BenchmarkLinkIngress takes packets from a device that costs no more than the
// copy, through the queue, to a dispatcher that drops them.
func BenchmarkLinkIngress(b *testing.B) {
	for _, size := range []int{64, 1500, 65000} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			w := newWheel(vnet(unix.VIRTIO_NET_HDR_F_NEEDS_CSUM, unix.VIRTIO_NET_HDR_GSO_NONE, 40, 0, 20, 16), tcpPacket(size))
			w.left.Store(int64(b.N))
			e, err := link.New(w, link.Config{})
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			d := &dispatcher{done: make(chan struct{})}
			d.left.Store(int64(b.N))
			b.ResetTimer()
			e.Attach(d)
			<-d.done
			b.StopTimer()
			e.Attach(nil)
		})
	}
}

// BenchmarkLinkEgress writes TCP segments, one packet each, to a device that
// drops them.
func BenchmarkLinkEgress(b *testing.B) {
	for _, size := range []int{64, 1500, 65000} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			w := newWheel([link.VNetHdrLen]byte{}, nil)
			defer w.Close()
			e, err := link.New(w, link.Config{})
			if err != nil {
				b.Fatal(err)
			}
			var list stack.PacketBufferList
			pkt := segment(size)
			defer pkt.DecRef()
			list.PushBack(pkt)
			b.ReportAllocs()
			for b.Loop() {
				if n, err := e.WritePackets(list); n != 1 || err != nil {
					b.Fatal(n, err)
				}
			}
		})
	}
}

// segment is a packet as the stack hands it to its link.
func segment(size int) *stack.PacketBuffer {
	raw := tcpPacket(size)
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: 40,
		Payload:            buffer.MakeWithData(raw[40:]),
	})
	copy(pkt.TransportHeader().Push(20), raw[20:40])
	copy(pkt.NetworkHeader().Push(20), raw[:20])
	pkt.TransportProtocolNumber = header.TCPProtocolNumber
	pkt.NetworkProtocolNumber = header.IPv4ProtocolNumber
	pkt.GSOOptions = stack.GSO{
		Type: stack.GSOTCPv4, NeedsCsum: true, CsumOffset: header.TCPChecksumOffset,
		MSS: 1460, L3HdrLen: 20, MaxSize: 65535,
	}
	return pkt
}
