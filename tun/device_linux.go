package tun

import (
	"errors"
	"fmt"
	"sync"
)

// Device is a TUN device with one or more queues. Its methods may be called
// by several goroutines at once, except that reads of one queue must not overlap.
type Device struct {
	format   format
	offloads int // TUN_F_ flags in force
	queues   []*queue
	control  *control

	closeOnce sync.Once
	closeErr  error
}

// Queues returns the number of queues: 0 to Queues()-1 may be read and written.
func (d *Device) Queues() int { return len(d.queues) }

// VNetHdr reports whether packets carry a struct virtio_net_hdr. If not,
// reads give a zero one, and what is given to a write is ignored.
func (d *Device) VNetHdr() bool { return d.format.vnet }

// TSO reports whether TCP super-packets (VIRTIO_NET_HDR_GSO_TCPV4 and _TCPV6)
// are read and may be written.
func (d *Device) TSO() bool { return d.offloads&offloadTSO != 0 }

// USO reports whether UDP super-packets (VIRTIO_NET_HDR_GSO_UDP_L4) are read
// and may be written.
func (d *Device) USO() bool { return d.offloads&offloadUSO != 0 }

// Close closes all queues. A read that waits, and every later call, returns an
// error that wraps [os.ErrClosed]. The kernel deletes an interface that is not
// persistent with its last descriptor, together with its addresses and routes.
// Close is idempotent.
func (d *Device) Close() error {
	d.closeOnce.Do(func() { d.closeErr = d.shut() })
	return d.closeErr
}

func (d *Device) shut() error {
	if err := errors.Join(d.closeQueues(), d.control.close()); err != nil {
		return fmt.Errorf("tun: close %s: %w", d.control.name, err)
	}
	return nil
}

// closeQueues closes the queues, each after the last system call on it returned.
func (d *Device) closeQueues() error {
	var errs []error
	for _, q := range d.queues {
		errs = append(errs, q.file.Close())
	}
	return errors.Join(errs...)
}

// Stats returns the counters, summed over the queues.
func (d *Device) Stats() Stats {
	var s Stats
	for _, q := range d.queues {
		s.ReadPackets += q.reader.packets.Load()
		s.ReadBytes += q.reader.bytes.Load()
		s.Truncated += q.reader.truncated.Load()
		s.WritePackets += q.written.packets.Load()
		s.WriteBytes += q.written.bytes.Load()
		s.WriteErrors += q.written.errors.Load()
	}
	return s
}
