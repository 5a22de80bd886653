package tun

import (
	"golang.org/x/sys/unix"
)

// writer holds what one write needs, so that writing doesn't allocate. The
// device pools them: writers of one queue are concurrent.
type writer struct {
	iov   []unix.Iovec
	n     int
	errno unix.Errno
	try   func(fd uintptr) bool
	once  func(fd uintptr)
}

func newWriter() any {
	w := new(writer)
	w.try = func(fd uintptr) bool {
		w.n, w.errno = vectored(unix.SYS_WRITEV, fd, w.iov)
		return w.errno != unix.EAGAIN
	}
	w.once = func(fd uintptr) { w.try(fd) }
	return w
}

// WritePacket writes one packet, the concatenation of bufs, with the virtio
// header hdr, to a queue. It doesn't keep bufs and may be called by several
// goroutines at once, also for one queue. The kernel takes the whole packet
// or none of it. An error that wraps EIO means that the interface is down, and
// ENOBUFS or ENOMEM that memory is short: that packet is lost, the next
// may pass. After [ErrGone] and [os.ErrClosed] none will.
func (d *Device) WritePacket(queue int, hdr *[HdrLen]byte, bufs [][]byte) error {
	l := d.lines[queue]
	w := d.writers.Get().(*writer)
	iov := w.iov[:0]
	if d.format.info {
		iov = appendIovec(iov, protocolInfo(bufs))
	}
	if d.format.vnet {
		iov = appendIovec(iov, hdr[:])
	}
	for _, b := range bufs {
		iov = appendIovec(iov, b)
	}
	w.iov = iov
	// Control lets writers of one queue into the kernel together; Write would
	// have them wait for one another.
	err := l.raw.Control(w.once)
	if err == nil && w.errno == unix.EAGAIN {
		// Only with a send buffer that whoever made the fd has limited.
		err = l.raw.Write(w.try)
	}
	n, errno := w.n, w.errno
	clear(w.iov)
	d.writers.Put(w)
	switch {
	case err != nil:
		return errClosed
	case errno != 0:
		l.written.errors.Add(1)
		return &ioError{"write", errno}
	}
	l.written.packets.Add(1)
	l.written.bytes.Add(uint64(n - d.format.size()))
	return nil
}

// protocolInfo returns the struct tun_pi for the packet in bufs.
func protocolInfo(bufs [][]byte) []byte {
	for _, b := range bufs {
		if len(b) > 0 && b[0]>>4 == 6 {
			return []byte{0, 0, 0x86, 0xdd}
		}
		if len(b) > 0 {
			break
		}
	}
	return []byte{0, 0, 0x08, 0x00}
}
