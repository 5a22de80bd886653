package link

import (
	"context"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// writer is the scratch space of one write, pooled because writes are
// concurrent and must not allocate.
type writer struct {
	hdr  [VNetHdrLen]byte
	bufs [][]byte
}

// WritePackets implements stack.LinkWriter: each packet is one gather write,
// super-packets included. A packet that the device refuses is dropped and
// counted, as on any network; TCP sends it again.
func (e *Endpoint) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	w := e.writers.Get().(*writer)
	for _, pkt := range pkts.AsSlice() {
		if opensTCP(pkt) {
			pkt.IncRef()
			if e.late.TryPut(pkt) {
				continue
			}
			pkt.DecRef()
		}
		e.writePacket(w, pkt)
	}
	e.release(w)
	return pkts.Len(), nil
}

func (e *Endpoint) writePacket(w *writer, pkt *stack.PacketBuffer) {
	o := egressOffload(pkt)
	w.bufs = appendPacket(w.bufs[:0], pkt)
	// A packet that the device refuses is dropped; write counts it.
	_ = e.write(w, pkt.Hash, &o)
}

// opensTCP reports whether the packet is a SYN, with or without ACK.
func opensTCP(pkt *stack.PacketBuffer) bool {
	if pkt.TransportProtocolNumber != header.TCPProtocolNumber {
		return false
	}
	h := header.TCP(pkt.TransportHeader().Slice())
	return len(h) >= header.TCPMinimumSize && h.Flags()&header.TCPFlagSyn != 0
}

// writeLate writes packets that open connections. gVisor sends those under a
// lock of the connection that its segment processor spins on, and the answer
// to a SYN-ACK is there before the write has returned: without this goroutine
// in between, a core is busy waiting for as long as the system call takes.
func (e *Endpoint) writeLate() {
	var batch [16]*stack.PacketBuffer
	w := new(writer)
	for {
		n, err := e.late.Get(context.Background(), batch[:])
		if err != nil {
			return
		}
		for i, pkt := range batch[:n] {
			e.writePacket(w, pkt)
			pkt.DecRef()
			batch[i] = nil
		}
		clear(w.bufs)
	}
}

// WriteRaw writes one whole IP packet, gathered from bufs, past the stack.
// Packets with one hash leave on one queue, in order, and the kernel steers
// that flow's packets back to the same queue. The error is the device's.
func (e *Endpoint) WriteRaw(hash uint32, o Offload, bufs [][]byte) error {
	w := e.writers.Get().(*writer)
	w.bufs = append(w.bufs[:0], bufs...)
	err := e.write(w, hash, &o)
	e.release(w)
	return err
}

func (e *Endpoint) write(w *writer, hash uint32, o *Offload) error {
	o.encode(&w.hdr)
	size := 0
	for _, b := range w.bufs {
		size += len(b)
	}
	if err := e.dev.WritePacket(int(hash%uint32(e.dev.Queues())), &w.hdr, w.bufs); err != nil {
		e.counters.txErrors.Add(1)
		return err
	}
	e.counters.txPackets.Add(1)
	e.counters.txBytes.Add(uint64(size))
	return nil
}

func (e *Endpoint) release(w *writer) {
	clear(w.bufs) // keep no packet from being freed
	e.writers.Put(w)
}

// appendPacket appends the packet's slices, headers first. They stay valid as
// long as the caller's reference to pkt.
func appendPacket(bufs [][]byte, pkt *stack.PacketBuffer) [][]byte {
	views, skip := pkt.AsViewList()
	for v := views.Front(); v != nil; v = v.Next() {
		b := v.AsSlice()
		if skip > 0 {
			if skip >= len(b) {
				skip -= len(b)
				continue
			}
			b = b[skip:]
			skip = 0
		}
		bufs = append(bufs, b)
	}
	return bufs
}
