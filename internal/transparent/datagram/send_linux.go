package datagram

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"netstackd/internal/ippkt"
	"netstackd/internal/sys"
)

// maxSegments is how many datagrams a train may have: UDP_MAX_SEGMENTS of
// Linux before 6.9, and what UDP_GRO merges at most.
const maxSegments = 64

// ownSegments is the size up to which datagrams are sent as a train unasked:
// larger ones are likely to exceed the path's MTU.
const ownSegments = 1452

// narrowFor is how long no trains are tried after one was refused.
const narrowFor = 10 * time.Second

// sender is the scratch space of one batch's messages, pooled because most
// sessions send nothing at any moment.
type sender struct {
	n     int // messages
	list  [batchLen]message
	msgs  [batchLen]sys.Mmsghdr
	name  [batchLen]sys.Sockaddr
	ctl   [batchLen][3 * sys.CmsgIntLen]byte
	iovs  []unix.Iovec
	bufs  [][]byte
	whole [][]byte          // payload of which bufs gets a part
	from  [batchLen + 1]int // where each message's part of bufs and iovs begins
}

// message is what one element of sendmmsg sends: a datagram, or several to one
// destination.
type message struct {
	at    cursor // where it begins in the batch
	d     *datagram
	size  int
	count int  // datagrams
	more  bool // another may follow: all have had the same size
	df    bool
}

// cursor is a place in a batch: a datagram, and an offset in its payload.
type cursor struct{ i, off int }

// send implements carrier.
func (k *udpSocket) send(b *batch) {
	if used := time.Duration(k.s.used.Load()); k.maxSeg < ippkt.MaxPacket && used-k.narrowed > narrowFor {
		k.maxSeg = ippkt.MaxPacket // paths change, and the next destination has another
	}
	w := k.s.set.scratch.senders.Get().(*sender)
	for at := (cursor{}); at.i < b.n; {
		next := w.build(b, at, k.maxSeg)
		at = k.transmit(w, next)
		w.reset()
	}
	k.s.set.scratch.senders.Put(w)
}

// reset forgets the payload, so that a pooled sender holds on to no packet.
func (w *sender) reset() {
	clear(w.bufs)
	clear(w.iovs)
	clear(w.list[:w.n])
	w.bufs, w.iovs, w.n = w.bufs[:0], w.iovs[:0], 0
}

// build makes messages of the batch from at on, until it ends or there is no
// room, and returns where it stopped. Datagrams longer than maxSeg are sent one
// by one, and others of one size and destination as trains.
func (w *sender) build(b *batch, at cursor, maxSeg int) cursor {
	for at.i < b.n {
		d := &b.list[at.i]
		piece := d.size - at.off
		if d.seg > maxSeg {
			piece = min(piece, d.seg)
		} else {
			piece = min(piece, d.seg*maxSegments)
		}
		if !w.join(d, at, piece) {
			if w.n == batchLen {
				break
			}
			w.add(d, at, piece, maxSeg)
		}
		if at.off += piece; at.off >= d.size {
			at = cursor{at.i + 1, 0}
		}
	}
	w.finish()
	return at
}

// count returns how many datagrams a piece of d is.
func (d *datagram) count(piece int) int {
	if piece <= d.seg {
		return 1
	}
	return (piece + d.seg - 1) / d.seg
}

// join appends a piece of d to the last message if it can be part of its train.
func (w *sender) join(d *datagram, at cursor, piece int) bool {
	if w.n == 0 || piece == 0 {
		return false
	}
	m := &w.list[w.n-1]
	n := d.count(piece)
	if !m.more || d.seg > m.d.seg || n > 1 && d.seg != m.d.seg || m.d.dst != d.dst ||
		m.df != d.df || m.d.ttl != d.ttl || m.d.tos != d.tos ||
		m.count+n > maxSegments || m.size+piece > ippkt.MaxPacket-ippkt.IPv6Len-ippkt.UDPLen {
		return false
	}
	m.count += n
	m.size += piece
	m.more = m.size%m.d.seg == 0
	w.slices(d, at.off, piece)
	return true
}

// add begins a message with a piece of d.
func (w *sender) add(d *datagram, at cursor, piece, maxSeg int) {
	w.from[w.n] = len(w.bufs)
	w.list[w.n] = message{
		at: at, d: d, size: piece, count: d.count(piece), df: d.df,
		more: piece > 0 && piece%d.seg == 0 && d.seg <= maxSeg && (d.seg <= ownSegments || d.size > d.seg),
	}
	w.n++
	w.slices(d, at.off, piece)
}

func (w *sender) slices(d *datagram, off, n int) {
	if off == 0 && n == d.size {
		before := len(w.bufs)
		w.bufs = d.payload(w.bufs)
		w.cap(before, n)
		return
	}
	w.whole = d.payload(w.whole[:0])
	w.bufs = ippkt.AppendRange(w.bufs, w.whole, off, n)
	clear(w.whole)
}

// cap shortens the slices that were added last to n bytes: the packet may have
// had padding.
func (w *sender) cap(from, n int) {
	for i := from; i < len(w.bufs); i++ {
		if len(w.bufs[i]) >= n {
			w.bufs[i] = w.bufs[i][:n]
			w.bufs = w.bufs[:i+1]
			return
		}
		n -= len(w.bufs[i])
	}
}

// finish fills in what the kernel reads.
func (w *sender) finish() {
	w.from[w.n] = len(w.bufs)
	for _, b := range w.bufs {
		var v unix.Iovec
		sys.SetIovec(&v, b)
		w.iovs = append(w.iovs, v)
	}
	for i := range w.list[:w.n] {
		m, h := &w.list[i], &w.msgs[i].Hdr
		*h = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&w.name[i])), Namelen: sys.PutSockaddr(&w.name[i], m.d.dst)}
		if n := w.from[i+1] - w.from[i]; n > 0 {
			h.Iov = &w.iovs[w.from[i]]
			h.SetIovlen(n)
		}
		if n := m.control(w.ctl[i][:]); n > 0 {
			h.Control = &w.ctl[i][0]
			h.SetControllen(n)
		}
	}
}

// control writes the control messages of m and returns their length: the
// segment size of a train, the traffic class when it is not the usual, and a
// time to live that the application has lowered on purpose, as traceroute does.
func (m *message) control(b []byte) int {
	n := 0
	if m.count > 1 {
		n += sys.PutCmsg16(b[n:], unix.SOL_UDP, unix.UDP_SEGMENT, uint16(m.d.seg))
	}
	level, tos, ttl := unix.SOL_IPV6, unix.IPV6_TCLASS, unix.IPV6_HOPLIMIT
	if m.d.dst.Addr().Is4() {
		level, tos, ttl = unix.SOL_IP, unix.IP_TOS, unix.IP_TTL
	}
	if m.d.tos != 0 {
		n += sys.PutCmsgInt(b[n:], level, tos, int(m.d.tos))
	}
	if m.d.ttl < ippkt.DefaultTTL {
		n += sys.PutCmsgInt(b[n:], level, ttl, int(m.d.ttl)-1) // we are one hop
	}
	return n
}

// transmit sends the messages, and returns where to build more: at next, or
// earlier if some have to be built again.
func (k *udpSocket) transmit(w *sender, next cursor) cursor {
	tries := 0
	for i := 0; i < w.n; {
		end := i + 1
		for end < w.n && w.list[end].df == w.list[i].df {
			end++
		}
		k.setMode(w.list[i].df)
		n, errno := sys.Sendmmsg(k.fd, w.msgs[i:end], unix.MSG_DONTWAIT)
		k.s.set.counters.sendCalls.Add(1)
		if errno == 0 {
			k.sent(w.list[i : i+n])
			i, tries = i+n, 0
			continue
		}
		tries++
		m := &w.list[i]
		if m.count > 1 && tries > 1 && errno != unix.EINTR && errno != unix.EAGAIN {
			// Longer than the path's MTU, or a route that can't segment: send the
			// datagrams one by one from now on, and see what each meets.
			k.maxSeg, k.narrowed = m.d.seg-1, k.s.set.now()
			return m.at
		}
		switch k.refused(m.d, errno, tries) {
		case tryAgain:
		case tryFragmented:
			m.df = false
		case dropPacket:
			k.dropped(m)
			i, tries = i+1, 0
		case dropBatch:
			for ; i < w.n; i++ {
				k.dropped(&w.list[i])
			}
		}
	}
	return next
}

// sent counts what has left.
func (k *udpSocket) sent(list []message) {
	var n, size int
	for i := range list {
		n += list[i].count
		size += list[i].size
	}
	k.s.wentUp(n, size)
}

func (k *udpSocket) dropped(m *message) { k.s.set.counters.droppedSend.Add(uint64(m.count)) }
