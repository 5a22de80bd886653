// Package tuntest has an in-memory TUN device for tests, with the methods of
// [netstackd/tun.Device] and no kernel, no privilege and no loss that wasn't asked for.
//
// The device has two sides. The one under test calls ReadPacket and
// WritePacket. The test plays the kernel: what it gives to Inject is read, and
// what was written it takes with Packet. Pair joins two devices instead, so
// that what one writes the other reads.
package tuntest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"netstackd/tun"
)

// Config describes a device. The zero value has one queue, a virtio header
// with every offload, an MTU of 1500 and room for 1024 packets a queue.
type Config struct {
	Queues int  // 0 means 1
	Plain  bool // no virtio header, hence no offloads
	NoUSO  bool // no UDP super-packets
	MTU    int  // 0 means 1500
	Depth  int  // packets that a queue holds, each way; 0 means 1024

	// Filter sees each packet that was written before it is delivered, and
	// returns what is to be delivered in its place: nothing to lose it, a
	// packet that it kept from before to reorder, two to duplicate. It is called from
	// several goroutines at once if there are several writers. Nil delivers
	// everything as it is.
	Filter func(Packet) []Packet
}

// Packet is one packet and the virtio header that came with it.
type Packet struct {
	Queue int
	Hdr   [tun.HdrLen]byte
	Data  []byte
}

// Device is an in-memory TUN. Make one with [New] or [Pair].
type Device struct {
	cfg     Config
	ingress []chan Packet
	egress  []chan Packet // the ingress of the other one of a pair
	arrived chan Packet

	dropped atomic.Uint64
	done    chan struct{}
	close   sync.Once
	gone    chan struct{}
	remove  sync.Once
}

// New returns a device whose other side is the test.
func New(cfg Config) *Device {
	d := alone(cfg)
	d.arrived = make(chan Packet, d.cfg.Depth*d.cfg.Queues)
	return d
}

// Pair returns two devices: what is written to a queue of one is read from the
// same queue of the other. If that has fewer queues, they are counted through.
func Pair(a, b Config) (*Device, *Device) {
	x, y := alone(a), alone(b)
	x.egress, y.egress = y.ingress, x.ingress
	return x, y
}

func alone(cfg Config) *Device {
	cfg.Queues = max(1, cfg.Queues)
	if cfg.MTU == 0 {
		cfg.MTU = 1500
	}
	if cfg.Depth == 0 {
		cfg.Depth = 1024
	}
	d := &Device{cfg: cfg, done: make(chan struct{}), gone: make(chan struct{})}
	for range cfg.Queues {
		d.ingress = append(d.ingress, make(chan Packet, cfg.Depth))
	}
	return d
}

// Queues returns the number of queues.
func (d *Device) Queues() int { return d.cfg.Queues }

// VNetHdr reports whether packets carry a virtio header.
func (d *Device) VNetHdr() bool { return !d.cfg.Plain }

// TSO reports whether TCP super-packets pass.
func (d *Device) TSO() bool { return !d.cfg.Plain }

// USO reports whether UDP super-packets pass.
func (d *Device) USO() bool { return !d.cfg.Plain && !d.cfg.NoUSO }

// MTU returns the configured MTU.
func (d *Device) MTU() (int, error) { return d.cfg.MTU, nil }

// Name returns "tuntest".
func (d *Device) Name() string { return "tuntest" }

// Dropped returns the packets that were lost because a queue was full, as the kernel would.
func (d *Device) Dropped() uint64 { return d.dropped.Load() }

// Close wakes blocked reads, which return an error that wraps [os.ErrClosed].
// What the device wrote before stays to be taken.
func (d *Device) Close() error {
	d.close.Do(func() { close(d.done) })
	return nil
}

// Delete does what deleting the interface does: reads and writes return an
// error that wraps [tun.ErrGone].
func (d *Device) Delete() { d.remove.Do(func() { close(d.gone) }) }

// ReadPacket is [tun.Device.ReadPacket].
func (d *Device) ReadPacket(queue int, hdr *[tun.HdrLen]byte, bufs [][]byte) (int, error) {
	if err := d.state("read"); err != nil {
		return 0, err
	}
	select {
	case p := <-d.ingress[queue]:
		return d.scatter(p, hdr, bufs)
	case <-d.done:
	case <-d.gone:
	}
	return 0, d.state("read")
}

func (d *Device) scatter(p Packet, hdr *[tun.HdrLen]byte, bufs [][]byte) (int, error) {
	*hdr = p.Hdr
	n := 0
	for _, b := range bufs {
		n += copy(b, p.Data[n:])
	}
	if n < len(p.Data) {
		return n, fmt.Errorf("tuntest: read: %w", tun.ErrTruncated)
	}
	return n, nil
}

// WritePacket is [tun.Device.WritePacket]. It never blocks: a packet for which there
// is no room is dropped and counted.
func (d *Device) WritePacket(queue int, hdr *[tun.HdrLen]byte, bufs [][]byte) error {
	if err := d.state("write"); err != nil {
		return err
	}
	p := Packet{Queue: queue}
	if !d.cfg.Plain {
		p.Hdr = *hdr
	}
	for _, b := range bufs {
		p.Data = append(p.Data, b...)
	}
	if d.cfg.Filter == nil {
		d.deliver(p)
		return nil
	}
	for _, p := range d.cfg.Filter(p) {
		d.deliver(p)
	}
	return nil
}

func (d *Device) deliver(p Packet) {
	to := d.arrived
	if d.egress != nil {
		to = d.egress[p.Queue%len(d.egress)]
	}
	select {
	case to <- p:
	default:
		d.dropped.Add(1)
	}
}

// Inject has the device read data from the queue p.Queue, with the header
// p.Hdr. It keeps p.Data. It waits for room, until ctx ends or the device closes.
func (d *Device) Inject(ctx context.Context, p Packet) error {
	select {
	case d.ingress[p.Queue] <- p:
		return nil
	case <-d.done:
	case <-d.gone:
	case <-ctx.Done():
		return ctx.Err()
	}
	return d.state("inject")
}

// Packet returns the oldest packet that was written and not taken yet, waiting for one
// until ctx ends.
func (d *Device) Packet(ctx context.Context) (Packet, error) {
	select {
	case p := <-d.arrived:
		return p, nil
	default:
	}
	select {
	case p := <-d.arrived:
		return p, nil
	case <-d.done:
		return Packet{}, d.state("packet")
	case <-ctx.Done():
		return Packet{}, ctx.Err()
	}
}

// state returns why the device can't be used, nil if it can.
func (d *Device) state(op string) error {
	select {
	case <-d.done:
		return fmt.Errorf("tuntest: %s: %w", op, os.ErrClosed)
	case <-d.gone:
		return fmt.Errorf("tuntest: %s: %w", op, errors.Join(tun.ErrGone))
	default:
		return nil
	}
}
