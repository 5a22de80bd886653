// Package tuntest has an in-memory TUN device for tests, with the methods of
// [netstackd/tun.Device] and without kernel, privilege or accidental loss.
//
// The code under test calls ReadPacket and WritePacket. With [New] the test
// plays the kernel: what it gives to Inject is read, and what was written it
// takes with Packet. With [Pair] there are two devices, and what is written to
// one is read from the other, so that two stacks can be joined.
//
// What a kernel would refuse, such as a virtio header that doesn't fit its
// packet, WritePacket refuses with the same errno. A full queue drops, as the
// kernel's does, and counts.
package tuntest

import (
	"sync"
	"sync/atomic"

	"netstackd/tun"
)

// Config describes a device. The zero value has one queue, a virtio header
// with every offload, an MTU of 1500 and room for 1024 packets in each queue.
type Config struct {
	Queues int  // 0 means 1
	Plain  bool // no virtio header, hence no offloads
	NoUSO  bool // no UDP super-packets
	MTU    int  // 0 means 1500; not enforced
	Depth  int  // packets that a queue holds; 0 means 1024

	// Discard throws away what is written, counted in Stats, without a copy.
	Discard bool

	// Filter sees each packet that was written and returns what is to be
	// delivered in its place: nothing to lose it, two to duplicate it, one
	// that it kept from earlier to reorder. It owns the packet, may change
	// it, and is called by one writer at a time. Nil delivers everything.
	Filter func(Packet) []Packet
}

// Packet is one packet and the virtio header before it.
type Packet struct {
	Queue int
	Hdr   [tun.HdrLen]byte
	Data  []byte

	reuse bool // Data goes back to the writer's free list when it was read
}

// Device is an in-memory TUN. Its methods may be called by several goroutines
// at once, except that reads of one queue must not overlap.
type Device struct {
	cfg     Config
	ingress []chan Packet
	egress  *Device     // the other one of a pair
	arrived chan Packet // what was written, if there is no other
	free    chan []byte // buffers of the packets that were read, to be used again

	filter sync.Mutex // held while cfg.Filter runs
	stats  counters

	done  chan struct{} // closed by Close
	gone  chan struct{} // closed by Delete
	close sync.Once
	del   sync.Once
}

type counters struct {
	readPackets, readBytes, truncated     atomic.Uint64
	writePackets, writeBytes, writeErrors atomic.Uint64
	dropped                               atomic.Uint64
}

// New returns a device whose kernel is the test.
func New(cfg Config) *Device {
	d := newDevice(cfg)
	d.arrived = make(chan Packet, d.cfg.Depth*d.cfg.Queues)
	return d
}

// Pair returns two devices: what is written to a queue of one is read from the
// same queue of the other, or, if that has fewer, from the one that it comes to
// counting round. Give both the same offloads.
func Pair(a, b Config) (*Device, *Device) {
	x, y := newDevice(a), newDevice(b)
	x.egress, y.egress = y, x
	return x, y
}

func newDevice(cfg Config) *Device {
	cfg.Queues = max(1, cfg.Queues)
	if cfg.MTU == 0 {
		cfg.MTU = 1500
	}
	if cfg.Depth == 0 {
		cfg.Depth = 1024
	}
	d := &Device{cfg: cfg, done: make(chan struct{}), gone: make(chan struct{})}
	d.free = make(chan []byte, cfg.Depth)
	for range cfg.Queues {
		d.ingress = append(d.ingress, make(chan Packet, cfg.Depth))
	}
	return d
}
