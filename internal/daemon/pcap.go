package daemon

import (
	"bufio"
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"sync"
	"time"

	"netstackd/link"
)

// capture is a device that writes down every packet that passes it, in the
// pcap format (draft-ietf-opsawg-pcap). What the kernel has not segmented yet
// is written as the one packet that it still is.
type capture struct {
	link.Device
	log *slog.Logger

	mu   sync.Mutex
	file *os.File // nil once closed
	w    *bufio.Writer
	err  error // the first write that failed; nothing is written after it
}

const (
	pcapMagic   = 0xa1b23c4d // times in nanoseconds
	pcapSnapLen = 262144
	pcapRaw     = 101 // LINKTYPE_RAW: IPv4 or IPv6, by the version nibble
)

// newCapture writes dev's packets to a new file, which the device's Close
// completes. A write that fails ends the capture and not the traffic; it is
// logged at once, and Err has it in the end.
func newCapture(dev link.Device, path string, log *slog.Logger) (*capture, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	c := &capture{Device: dev, log: log, file: file, w: bufio.NewWriterSize(file, 1<<20)}
	h := binary.NativeEndian.AppendUint32(nil, pcapMagic)
	h = binary.NativeEndian.AppendUint16(h, 2)
	h = binary.NativeEndian.AppendUint16(h, 4)
	h = append(h, make([]byte, 8)...) // time zone and accuracy: both 0
	h = binary.NativeEndian.AppendUint32(h, pcapSnapLen)
	h = binary.NativeEndian.AppendUint32(h, pcapRaw)
	if _, err := c.w.Write(h); err != nil {
		file.Close()
		return nil, err
	}
	return c, nil
}

// ReadPacket implements link.Device.
func (c *capture) ReadPacket(queue int, hdr *[link.VNetHdrLen]byte, bufs [][]byte) (int, error) {
	n, err := c.Device.ReadPacket(queue, hdr, bufs)
	if err == nil {
		c.record(bufs, n)
	}
	return n, err
}

// WritePacket implements link.Device.
func (c *capture) WritePacket(queue int, hdr *[link.VNetHdrLen]byte, bufs [][]byte) error {
	size := 0
	for _, b := range bufs {
		size += len(b)
	}
	c.record(bufs, size)
	return c.Device.WritePacket(queue, hdr, bufs)
}

func (c *capture) record(bufs [][]byte, size int) {
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
		c.log.Warn("--pcap: the capture lacks all packets from here on", "err", c.err)
	}
}

// Err is why the capture is not whole, nil if it is. It is final after Close.
func (c *capture) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close implements link.Device.
func (c *capture) Close() error {
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
