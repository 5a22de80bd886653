package link

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"syscall"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"netstackd/queue"
)

// A packet is read into three views by one scatter read, smallest first: a bare
// ACK uses up only that, a packet of Ethernet size the first two, and only a
// super-packet takes the large one. After a super-packet the next is expected
// to be one as well, and they are filled in reverse: each view that a packet
// consists of costs something wherever it passes. What was not used serves the
// next read, since gVisor zeroes each view that it hands out. The sizes are
// those of gVisor's own pools.
const (
	headView = 128
	bodyView = 2048
	bulkView = 65536
)

// scatter is one reader's set of views.
type scatter struct {
	sizes [3]int // in the order in which they are filled
	views [3]*buffer.View
	bufs  [3][]byte
	bulk  bool // largest first
	hdr   [VNetHdrLen]byte
}

func newScatter() *scatter { return &scatter{sizes: [3]int{headView, bodyView, bulkView}} }

// fill replaces the views that the last packet took.
func (s *scatter) fill() {
	for i, v := range s.views {
		if v == nil {
			s.views[i] = buffer.NewViewSize(s.sizes[i])
			s.bufs[i] = s.views[i].AsSlice()
		}
	}
}

// take returns the n bytes just read as a packet's payload. Little in a larger
// view is copied to a small one: that costs less than the zeroing of another
// large one, and a receive queue of such packets holds no more than four times
// the memory that it accounts for.
func (s *scatter) take(n int) buffer.Buffer {
	var b buffer.Buffer
	bulk := n > headView+bodyView
	for i := 0; n > 0; i++ {
		v := s.views[i]
		used := min(n, v.Size())
		if s.sizes[i] > headView && used <= s.sizes[i]/4 {
			v = buffer.NewViewSize(used)
			copy(v.AsSlice(), s.bufs[i])
		} else {
			v.CapLength(used)
			s.views[i] = nil
		}
		n -= used
		_ = b.Append(v) // fails for no view that NewViewSize made
	}
	if s.bulk != bulk {
		s.bulk = bulk
		slices.Reverse(s.sizes[:])
		slices.Reverse(s.views[:])
		slices.Reverse(s.bufs[:])
	}
	return b
}

func (s *scatter) release() {
	for _, v := range s.views {
		if v != nil {
			v.Release()
		}
	}
}

// ingress is the queue between the reader of a device queue and the goroutine
// that delivers.
type ingress struct {
	*queue.Queue[*stack.PacketBuffer]
	icmp atomic.Int32 // packets of ICMP in the queue
}

// read moves packets from one device queue into q until the device ends.
func (e *Endpoint) read(ctx context.Context, n int, q *ingress) {
	defer q.Close()
	s := newScatter()
	defer s.release()
	most := int32(max(1, e.cfg.QueueLen/icmpShare))
	for {
		s.fill()
		size, err := e.dev.ReadPacket(n, &s.hdr, s.bufs[:])
		if errors.Is(err, syscall.EMSGSIZE) { // more than the largest IP packet: cut
			e.counters.rxMalformed.Add(1)
			continue
		}
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, os.ErrClosed) {
				e.fail(fmt.Errorf("link: read: %w", err))
			}
			return
		}
		icmp := size >= header.IPv4MinimumSize && isICMP(s.bufs[0])
		if icmp && (q.icmp.Load() >= most || !e.icmp.allow(s.bufs[0])) {
			e.counters.rxCrowded.Add(1)
			continue
		}
		pkt := e.parse(s, size)
		if pkt == nil {
			e.counters.rxMalformed.Add(1)
			continue
		}
		if icmp {
			q.icmp.Add(1)
			pkt.TransportProtocolNumber = header.ICMPv4ProtocolNumber // for deliver, whatever the version
		}
		if q.TryPut(pkt) {
			continue
		}
		e.counters.queueWaits.Add(1)
		if q.Put(ctx, pkt) != nil {
			pkt.DecRef()
			return
		}
	}
}

// parse makes a packet of what was just read, or returns nil when it is none.
func (e *Endpoint) parse(s *scatter, size int) *stack.PacketBuffer {
	var o Offload
	if size < header.IPv4MinimumSize || size > headView+bodyView+bulkView || !o.decode(&s.hdr, size) {
		return nil
	}
	proto := header.IPv4ProtocolNumber
	switch s.bufs[0][0] >> 4 {
	case header.IPv4Version:
	case header.IPv6Version:
		proto = header.IPv6ProtocolNumber
		if size < header.IPv6MinimumSize {
			return nil
		}
	default:
		return nil
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: s.take(size)})
	pkt.NetworkProtocolNumber = proto
	pkt.GSOOptions = ingressGSO(&o)
	pkt.RXChecksumValidated = o.NeedsCsum || o.DataValid
	return pkt
}

// deliver hands q's packets to the stack until q is closed and empty.
func (e *Endpoint) deliver(d stack.NetworkDispatcher, q *ingress) {
	batch := make([]*stack.PacketBuffer, e.cfg.Batch)
	verify := e.cap&stack.CapabilityRXChecksumOffload != 0
	for {
		n, err := q.Get(context.Background(), batch)
		if err != nil {
			return
		}
		for i, pkt := range batch[:n] {
			batch[i] = nil
			if pkt.TransportProtocolNumber == header.ICMPv4ProtocolNumber {
				q.icmp.Add(-1)
				pkt.TransportProtocolNumber = 0
			}
			if verify && !pkt.RXChecksumValidated && !checksumValid(pkt) {
				e.counters.rxBadChecksum.Add(1)
			} else {
				e.counters.rxPackets.Add(1)
				e.counters.rxBytes.Add(uint64(pkt.Size()))
				d.DeliverNetworkPacket(pkt.NetworkProtocolNumber, pkt)
			}
			pkt.DecRef()
		}
		if e.cfg.Flush != nil {
			e.cfg.Flush()
		}
	}
}
