// Package pcap records the packets of a device in a file, in the pcap format
// (draft-ietf-opsawg-pcap).
package pcap

import (
	"bufio"
	"encoding/binary"
	"errors"
	"os"
	"sync"
	"time"

	"netstackd/link"
)

// Device is a device whose packets are recorded. A super-packet, which the kernel
// has not segmented yet, is recorded as one packet.
type Device struct {
	link.Device
	failed func(error)

	mu   sync.Mutex
	file *os.File // nil once closed
	w    *bufio.Writer
	err  error // the first write that failed; nothing is written after it
}

const (
	magic   = 0xa1b23c4d // times in nanoseconds
	snapLen = 262144
	raw     = 101 // LINKTYPE_RAW: IPv4 or IPv6, by the version nibble
)

// Record writes dev's packets to a new file, which Close completes. A write that
// fails ends the recording and not the traffic: failed is called with the error
// at once, and Err returns it.
func Record(dev link.Device, path string, failed func(error)) (*Device, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	c := &Device{Device: dev, failed: failed, file: file, w: bufio.NewWriterSize(file, 1<<20)}
	h := binary.NativeEndian.AppendUint32(nil, magic)
	h = binary.NativeEndian.AppendUint16(h, 2)
	h = binary.NativeEndian.AppendUint16(h, 4)
	h = append(h, make([]byte, 8)...) // time zone and accuracy: both 0
	h = binary.NativeEndian.AppendUint32(h, snapLen)
	h = binary.NativeEndian.AppendUint32(h, raw)
	if _, err := c.w.Write(h); err != nil {
		file.Close()
		return nil, err
	}
	return c, nil
}

// ReadPacket implements link.Device.
func (c *Device) ReadPacket(queue int, hdr *[link.VNetHdrLen]byte, bufs [][]byte) (int, error) {
	n, err := c.Device.ReadPacket(queue, hdr, bufs)
	if err == nil {
		c.record(bufs, n)
	}
	return n, err
}

// WritePacket implements link.Device.
func (c *Device) WritePacket(queue int, hdr *[link.VNetHdrLen]byte, bufs [][]byte) error {
	size := 0
	for _, b := range bufs {
		size += len(b)
	}
	c.record(bufs, size)
	return c.Device.WritePacket(queue, hdr, bufs)
}

func (c *Device) record(bufs [][]byte, size int) {
	now := time.Now()
	var h [16]byte
	binary.NativeEndian.PutUint32(h[0:], uint32(now.Unix()))
	binary.NativeEndian.PutUint32(h[4:], uint32(now.Nanosecond()))
	binary.NativeEndian.PutUint32(h[8:], uint32(size))
	binary.NativeEndian.PutUint32(h[12:], uint32(size))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || c.file == nil {
		return
	}
	_, c.err = c.w.Write(h[:])
	for _, b := range bufs {
		b = b[:min(len(b), size)]
		size -= len(b)
		if c.err == nil {
			_, c.err = c.w.Write(b)
		}
	}
	if c.err != nil {
		c.failed(c.err)
	}
}

// Err returns why the file is incomplete, nil if it is complete. It is final
// after Close.
func (c *Device) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close implements link.Device.
func (c *Device) Close() error {
	err := c.Device.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.file == nil {
		return err
	}
	if c.err == nil {
		c.err = c.w.Flush()
	}
	if cerr := c.file.Close(); c.err == nil {
		c.err = cerr
	}
	c.file = nil
	return errors.Join(err, c.err)
}
