package tun

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
)

// Device is a TUN device with one or more queues. Its methods may be called
// by several goroutines at once, except that reads of one queue must not overlap.
type Device struct {
	format  format
	lines   []*line
	control *control
	uso     bool
	tso     bool
	writers sync.Pool // of *writer

	closed    atomic.Bool
	closeOnce sync.Once
	closeErr  error
}

var errClosed = fmt.Errorf("tun: %w", os.ErrClosed)

// Queues returns the number of queues: 0 to Queues()-1 may be read and written.
func (d *Device) Queues() int { return len(d.lines) }

// VNetHdr reports whether packets carry a struct virtio_net_hdr. If not,
// reads give a zero one and the one given to a write is ignored.
func (d *Device) VNetHdr() bool { return d.format.vnet }

// TSO reports whether TCP super-packets (VIRTIO_NET_HDR_GSO_TCPV4 and _TCPV6)
// are read. They may be written whenever VNetHdr is true.
func (d *Device) TSO() bool { return d.tso }

// USO reports whether UDP super-packets (VIRTIO_NET_HDR_GSO_UDP_L4) are read
// and may be written.
func (d *Device) USO() bool { return d.uso }

// Close closes all queues: a blocked read returns an error that wraps
// [os.ErrClosed], as does every later call. If the device was opened, and
// not adopted or made persistent by someone, the interface and its addresses and
// routes are gone when the last queue is. Closing twice is harmless.
func (d *Device) Close() error {
	d.closeOnce.Do(func() {
		d.closed.Store(true)
		var errs []error
		for _, l := range d.lines {
			errs = append(errs, l.file.Close())
		}
		errs = append(errs, d.control.close())
		if err := errors.Join(errs...); err != nil {
			d.closeErr = fmt.Errorf("tun: close: %w", err)
		}
	})
	return d.closeErr
}

// Stats returns the counters, summed over the queues.
func (d *Device) Stats() Stats {
	var s Stats
	for _, l := range d.lines {
		s.ReadPackets += l.reader.packets.Load()
		s.ReadBytes += l.reader.bytes.Load()
		s.Truncated += l.reader.truncated.Load()
		s.WritePackets += l.written.packets.Load()
		s.WriteBytes += l.written.bytes.Load()
		s.WriteErrors += l.written.errors.Load()
	}
	return s
}
