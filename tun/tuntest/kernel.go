package tuntest

import "context"

// What the test does in the kernel's place.

// Inject has p read from the queue p.Queue. It keeps p.Data, which must not
// change until it was read. It waits for room in the queue until ctx
// ends, and fails when the device is closed or deleted.
func (d *Device) Inject(ctx context.Context, p Packet) error {
	if d.cfg.Plain {
		clear(p.Hdr[:])
	}
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

// Packet takes the oldest packet that was written, waiting for one until ctx ends
// or the device is closed. It is for a device made by [New].
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

// Packets takes all packets that were written and not taken yet.
func (d *Device) Packets() []Packet {
	var ps []Packet
	for {
		select {
		case p := <-d.arrived:
			ps = append(ps, p)
		default:
			return ps
		}
	}
}

// Dropped returns the number of written packets that were lost because the
// queue that they were for was full.
func (d *Device) Dropped() uint64 { return d.stats.dropped.Load() }

// Delete does what deleting the interface does: waiting and later calls return
// an error that wraps [netstackd/tun.ErrGone].
func (d *Device) Delete() { d.del.Do(func() { close(d.gone) }) }
