package tuntest

import (
	"fmt"
	"os"
	"syscall"

	"netstackd/tun"
)

// Name returns "tuntest".
func (d *Device) Name() string { return "tuntest" }

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

// ReadPacket does what [tun.Device.ReadPacket] does.
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

// scatter copies p out, which is then no longer needed.
func (d *Device) scatter(p Packet, hdr *[tun.HdrLen]byte, bufs [][]byte) (int, error) {
	*hdr = p.Hdr
	n := 0
	for _, b := range bufs {
		n += copy(b, p.Data[n:])
	}
	d.stats.readPackets.Add(1)
	d.stats.readBytes.Add(uint64(n))
	if n < len(p.Data) {
		d.stats.truncated.Add(1)
		return n, fmt.Errorf("tuntest: read: %w", tun.ErrTruncated)
	}
	if p.reuse {
		select {
		case d.egress.free <- p.Data:
		default:
		}
	}
	return n, nil
}

// WritePacket does what [tun.Device.WritePacket] does. It never waits.
func (d *Device) WritePacket(queue int, hdr *[tun.HdrLen]byte, bufs [][]byte) error {
	if err := d.state("write"); err != nil {
		return err
	}
	size := 0
	for _, b := range bufs {
		size += len(b)
	}
	if err := d.check(hdr, bufs, size); err != nil {
		d.stats.writeErrors.Add(1)
		return err
	}
	d.stats.writePackets.Add(1)
	d.stats.writeBytes.Add(uint64(size))
	if d.cfg.Discard {
		return nil
	}
	p := Packet{Queue: queue, Data: d.gather(bufs, size)}
	if !d.cfg.Plain {
		p.Hdr = *hdr
	}
	if d.cfg.Filter == nil {
		p.reuse = d.egress != nil
		d.deliver(p)
		return nil
	}
	d.filter.Lock()
	defer d.filter.Unlock()
	for _, p := range d.cfg.Filter(p) {
		d.deliver(p)
	}
	return nil
}

// gather copies bufs into one buffer.
func (d *Device) gather(bufs [][]byte, size int) []byte {
	var data []byte
	select {
	case data = <-d.free:
	default:
		data = make([]byte, 0, size)
	}
	data = data[:0]
	for _, b := range bufs {
		data = append(data, b...)
	}
	return data
}

func (d *Device) deliver(p Packet) {
	to := d.arrived
	if d.egress != nil {
		to = d.egress.ingress[p.Queue%len(d.egress.ingress)]
	}
	select {
	case to <- p:
	default:
		d.stats.dropped.Add(1)
	}
}

// Stats returns the counters.
func (d *Device) Stats() tun.Stats {
	return tun.Stats{
		ReadPackets:  d.stats.readPackets.Load(),
		ReadBytes:    d.stats.readBytes.Load(),
		Truncated:    d.stats.truncated.Load(),
		WritePackets: d.stats.writePackets.Load(),
		WriteBytes:   d.stats.writeBytes.Load(),
		WriteErrors:  d.stats.writeErrors.Load(),
	}
}

// Close makes waiting and later calls return an error that wraps
// [os.ErrClosed]. What was written stays to be taken with Packet.
func (d *Device) Close() error {
	d.close.Do(func() { close(d.done) })
	return nil
}

// state returns why the device can't be used, nil if it can.
func (d *Device) state(op string) error {
	select {
	case <-d.done:
		return fmt.Errorf("tuntest: %s: %w", op, os.ErrClosed)
	case <-d.gone:
		return fmt.Errorf("tuntest: %s: %w: %w", op, syscall.ENODEV, tun.ErrGone)
	default:
		return nil
	}
}
