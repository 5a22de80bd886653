package tun

import "sync"

// writers is shared by all devices, so that a write does not allocate.
var writers = sync.Pool{New: newWriter}

// format says what comes before each packet on the fd. It is the same on all
// queues.
type format struct {
	info bool // struct tun_pi, if the fd was made without IFF_NO_PI
	vnet bool // struct virtio_net_hdr
}

// infoLen is the length of struct tun_pi (linux/if_tun.h): flags, then the
// ethertype, which is big-endian.
const infoLen = 4

var (
	infoIPv4 = [infoLen]byte{2: 0x08, 3: 0x00}
	infoIPv6 = [infoLen]byte{2: 0x86, 3: 0xdd}
)

// size returns the number of bytes before each packet.
func (f format) size() int {
	n := 0
	if f.info {
		n += infoLen
	}
	if f.vnet {
		n += HdrLen
	}
	return n
}

// ReadPacket reads one packet of a queue into bufs, one after the other, and its
// virtio header into hdr; hdr is zeroed if there is none. It blocks until there
// is a packet and returns the length of the packet without the header. Reads of
// one queue must not overlap. A packet longer than bufs fills them and returns
// [ErrTruncated]. After [ErrGone] or [os.ErrClosed] no read succeeds.
func (d *Device) ReadPacket(queue int, hdr *[HdrLen]byte, bufs [][]byte) (int, error) {
	q := d.queues[queue]
	r := &q.reader
	iov := r.iov[:0]
	if d.format.info {
		iov = appendIovec(iov, r.info[:])
	}
	if d.format.vnet {
		iov = appendIovec(iov, hdr[:])
	} else {
		clear(hdr[:])
	}
	room := 0
	for _, b := range bufs {
		iov = appendIovec(iov, b)
		room += len(b)
	}
	r.iov = appendIovec(iov, r.spill[:])
	n, err := q.read()
	clear(r.iov) // keep no buffer alive
	if err != nil {
		return 0, err
	}

	n = max(0, n-d.format.size())
	r.packets.Add(1)
	if n > room {
		r.truncated.Add(1)
		r.bytes.Add(uint64(room))
		return room, errTruncated
	}
	r.bytes.Add(uint64(n))
	return n, nil
}

// WritePacket writes one packet, the concatenation of bufs, with the virtio
// header hdr, to a queue. It does not keep bufs. Several goroutines may call it
// at once, also for one queue: the kernel takes a packet whole or not at all.
//
// The errors wrap EIO while the interface is down, ENOBUFS or ENOMEM while
// memory is short, and EINVAL for a malformed packet or header. The packet is
// lost, and the next write may succeed. After [ErrGone] or [os.ErrClosed] no
// write succeeds.
func (d *Device) WritePacket(queue int, hdr *[HdrLen]byte, bufs [][]byte) error {
	q := d.queues[queue]
	w := writers.Get().(*writer)
	defer writers.Put(w)
	iov := w.iov[:0]
	if d.format.info {
		iov = appendIovec(iov, packetInfo(bufs))
	}
	if d.format.vnet {
		iov = appendIovec(iov, hdr[:])
	}
	for _, b := range join(bufs, maxIovecs-2) {
		iov = appendIovec(iov, b)
	}
	w.iov = iov
	n, err := q.write(w)
	clear(w.iov) // keep no buffer alive
	if err != nil {
		q.written.errors.Add(1)
		return err
	}
	q.written.packets.Add(1)
	q.written.bytes.Add(uint64(n - d.format.size()))
	return nil
}

// packetInfo returns the struct tun_pi of the packet in bufs.
func packetInfo(bufs [][]byte) []byte {
	for _, b := range bufs {
		if len(b) > 0 && b[0]>>4 == 6 {
			return infoIPv6[:]
		}
		if len(b) > 0 {
			break
		}
	}
	return infoIPv4[:]
}
