// Package link is the link endpoint between a TUN device and a gVisor stack.
//
// # Theory of operation
//
// Each queue of the device has two goroutines. The reader fills views straight
// from the device, with no copy in between, and puts the packets into a
// bounded queue.Queue. The deliverer takes them in batches, checks what the
// kernel has not vouched for, and hands them to the stack's dispatcher:
//
//	device ─read─► reader ─► queue.Queue ─► deliverer ─► NetworkDispatcher
//	device ◄─write─ WritePackets, WriteRaw (on the caller's goroutine)
//	device ◄─write─ queue.Queue ◄─ WritePackets (TCP SYN and SYN-ACK only)
//
// When the queue is full, its reader waits. The kernel's transmit queue then
// fills, and the kernel drops and counts the packets. Only ICMP beyond its share
// of the queue, or beyond its sender's rate, is dropped here (Stats.RxCrowded).
//
// With a virtio header on the device (linux/virtio_net.h), packets are
// super-packets of up to 64 KiB in both directions: what the kernel has merged
// is delivered as one packet, and what the stack sends is written in one
// gather write for the kernel to segment. Checksums are left to the kernel
// wherever its header allows.
//
// Egress has no queue of its own, but for packets that open a connection (see
// writeLate): a packet is written by the goroutine that produced it. A write to
// a TUN does not wait (the kernel queues or drops), so the endpoint lock that
// gVisor's TCP holds there is held no longer than the copy takes.
package link

import (
	"context"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"netstackd/queue"
)

// Device is what the endpoint needs of a TUN. Buffers hold IP packets; the
// virtio header travels beside them: struct virtio_net_hdr, little-endian on every
// host (TUNSETVNETLE).
type Device interface {
	// Queues returns how many queues there are, at least 1.
	Queues() int
	// VNetHdr reports whether packets carry a virtio header.
	VNetHdr() bool
	// USO reports whether UDP super-packets may be written.
	USO() bool
	// MTU returns the interface's MTU in bytes.
	MTU() (int, error)
	// ReadPacket waits for a packet on one queue and scatters it over bufs, its
	// virtio header into hdr (zeroes where there is none). It returns the
	// packet's length. Calls for one queue must not overlap. After Close the
	// error wraps os.ErrClosed.
	ReadPacket(queue int, hdr *[VNetHdrLen]byte, bufs [][]byte) (int, error)
	// WritePacket writes the packet gathered from bufs on one queue. It keeps
	// neither argument and may be called concurrently.
	WritePacket(queue int, hdr *[VNetHdrLen]byte, bufs [][]byte) error
	// Close ends the device and wakes blocked reads. It is idempotent.
	Close() error
}

// Config tunes an Endpoint. Its zero value works.
type Config struct {
	// QueueLen is how many packets each ingress queue holds; 0 = 256.
	QueueLen int
	// Batch is how many packets are delivered between two calls of Flush; 0 = 64.
	Batch int
	// Flush is called after each delivered batch, on the delivering goroutine.
	Flush func()
}

// Stats counts packets and payload bytes since the endpoint was made. A
// super-packet counts as one.
type Stats struct {
	RxPackets, RxBytes uint64 // delivered to the stack
	RxMalformed        uint64 // dropped: not IP, truncated, or an impossible virtio header
	RxBadChecksum      uint64 // dropped: a checksum that we had to verify was wrong
	RxCrowded          uint64 // dropped: ICMP beyond its share of the ingress queue, or its host's rate
	TxPackets, TxBytes uint64 // written to the device
	TxErrors           uint64 // dropped: the device refused the write
	QueueWaits         uint64 // times a reader found its queue full
}

type counters struct {
	rxPackets, rxBytes                       atomic.Uint64
	rxMalformed, rxBadChecksum, rxCrowded    atomic.Uint64
	txPackets, txBytes, txErrors, queueWaits atomic.Uint64
}

// Endpoint is a stack.LinkEndpoint and stack.GSOEndpoint over a Device.
type Endpoint struct {
	dev Device
	cfg Config
	gso stack.SupportedGSO
	cap stack.LinkEndpointCapabilities
	mtu atomic.Uint32

	counters counters
	icmp     icmpLimit
	writers  sync.Pool                         // *writer
	late     *queue.Queue[*stack.PacketBuffer] // see writeLate

	mu         sync.Mutex
	dispatcher stack.NetworkDispatcher // nil unless attached
	cancel     context.CancelFunc
	wg         sync.WaitGroup
	done       chan struct{} // closed when a reader gave up by itself
	doneOnce   sync.Once
	err        error // why, set before done is closed
	onClose    func()
}

var (
	_ stack.LinkEndpoint = (*Endpoint)(nil)
	_ stack.GSOEndpoint  = (*Endpoint)(nil)
)

// New returns an Endpoint on dev and takes over its closing. No goroutine
// starts before Attach.
func New(dev Device, cfg Config) (*Endpoint, error) {
	mtu, err := dev.MTU()
	if err != nil {
		return nil, err
	}
	if cfg.QueueLen <= 0 {
		cfg.QueueLen = 256
	}
	if cfg.Batch <= 0 {
		cfg.Batch = 64
	}
	e := &Endpoint{dev: dev, cfg: cfg, done: make(chan struct{})}
	e.late = queue.New[*stack.PacketBuffer](cfg.QueueLen)
	e.icmp.init()
	e.mtu.Store(uint32(mtu))
	e.writers.New = func() any { return new(writer) }
	if dev.VNetHdr() {
		e.gso = stack.HostGSOSupported
		// With this capability, gVisor's NIC marks every packet as verified. So
		// deliver verifies the packets that the kernel has not.
		e.cap = stack.CapabilityRXChecksumOffload
	}
	return e, nil
}

// Attach implements stack.LinkEndpoint. Attaching a dispatcher starts the
// ingress goroutines; attaching nil closes the device and waits for them. An
// endpoint is attached once.
func (e *Endpoint) Attach(d stack.NetworkDispatcher) {
	e.mu.Lock()
	if d != nil {
		if e.dispatcher == nil {
			e.dispatcher = d
			e.start(d)
		}
		e.mu.Unlock()
		return
	}
	e.dispatcher = nil
	cancel := e.cancel
	e.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	e.late.Close()
	// The last reader or writer closes the device, so no caller could get the
	// error. What the device held is freed either way.
	_ = e.dev.Close()
	e.wg.Wait()
}

// start runs the ingress goroutines. The caller holds e.mu.
func (e *Endpoint) start(d stack.NetworkDispatcher) {
	ctx, cancel := context.WithCancel(context.Background())
	e.cancel = cancel
	e.wg.Go(e.writeLate)
	for i := range e.dev.Queues() {
		q := &ingress{Queue: queue.New[*stack.PacketBuffer](e.cfg.QueueLen)}
		e.wg.Go(func() { e.read(ctx, i, q) })
		e.wg.Go(func() { e.deliver(d, q) })
	}
}

// fail records why ingress ended by itself.
func (e *Endpoint) fail(err error) {
	e.doneOnce.Do(func() {
		e.err = err
		close(e.done)
	})
}

// Done is closed when the device fails under a running endpoint, for example
// because the interface was deleted. Err then says why.
func (e *Endpoint) Done() <-chan struct{} { return e.done }

// Err returns why Done is closed, or nil.
func (e *Endpoint) Err() error {
	select {
	case <-e.done:
		return e.err
	default:
		return nil
	}
}

// Stats returns the endpoint's counters.
func (e *Endpoint) Stats() Stats {
	c := &e.counters
	return Stats{
		RxPackets: c.rxPackets.Load(), RxBytes: c.rxBytes.Load(),
		RxMalformed: c.rxMalformed.Load(), RxBadChecksum: c.rxBadChecksum.Load(), RxCrowded: c.rxCrowded.Load(),
		TxPackets: c.txPackets.Load(), TxBytes: c.txBytes.Load(), TxErrors: c.txErrors.Load(),
		QueueWaits: c.queueWaits.Load(),
	}
}

// USO reports whether WriteRaw takes UDP super-packets.
func (e *Endpoint) USO() bool { return e.dev.USO() }

// MTU implements stack.LinkEndpoint.
func (e *Endpoint) MTU() uint32 { return e.mtu.Load() }

// SetMTU implements stack.LinkEndpoint. It does not change the interface.
func (e *Endpoint) SetMTU(mtu uint32) { e.mtu.Store(mtu) }

// GSOMaxSize implements stack.GSOEndpoint: the largest IP packet there is.
func (e *Endpoint) GSOMaxSize() uint32 { return 65535 }

// SupportedGSO implements stack.GSOEndpoint.
func (e *Endpoint) SupportedGSO() stack.SupportedGSO { return e.gso }

// Capabilities implements stack.LinkEndpoint.
func (e *Endpoint) Capabilities() stack.LinkEndpointCapabilities { return e.cap }

// IsAttached implements stack.LinkEndpoint.
func (e *Endpoint) IsAttached() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.dispatcher != nil
}

// Wait implements stack.LinkEndpoint: it waits for the ingress goroutines.
func (e *Endpoint) Wait() { e.wg.Wait() }

// Close implements stack.LinkEndpoint.
func (e *Endpoint) Close() {
	e.Attach(nil)
	e.mu.Lock()
	onClose := e.onClose
	e.onClose = nil
	e.mu.Unlock()
	if onClose != nil {
		onClose()
	}
}

// SetOnCloseAction implements stack.LinkEndpoint.
func (e *Endpoint) SetOnCloseAction(f func()) {
	e.mu.Lock()
	e.onClose = f
	e.mu.Unlock()
}

// A TUN has no link layer, so the rest of stack.LinkEndpoint has nothing to do.

// MaxHeaderLength implements stack.LinkEndpoint.
func (*Endpoint) MaxHeaderLength() uint16 { return 0 }

// LinkAddress implements stack.LinkEndpoint.
func (*Endpoint) LinkAddress() tcpip.LinkAddress { return "" }

// SetLinkAddress implements stack.LinkEndpoint.
func (*Endpoint) SetLinkAddress(tcpip.LinkAddress) {}

// ARPHardwareType implements stack.LinkEndpoint.
func (*Endpoint) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }

// AddHeader implements stack.LinkEndpoint.
func (*Endpoint) AddHeader(*stack.PacketBuffer) {}

// ParseHeader implements stack.LinkEndpoint.
func (*Endpoint) ParseHeader(*stack.PacketBuffer) bool { return true }
