package datagram

import (
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"netstackd/internal/ippkt"
	"netstackd/internal/sys"
	"netstackd/internal/transparent/outlet"
)

// recvBatch is how many messages one run of a session's task takes, before other
// tasks get their turn. With UDP_GRO a message may be a train.
const recvBatch = 16

// receiveBatch is the scratch space of one run. Pages that the kernel never
// writes to take up no memory.
type receiveBatch struct {
	msgs [recvBatch]sys.Mmsghdr
	name [recvBatch]sys.Sockaddr
	ctl  [recvBatch][4 * sys.CmsgIntLen]byte
	iovs [recvBatch]unix.Iovec
	bufs [recvBatch][]byte
	list [recvBatch]arrival
}

// arrival is one received message.
type arrival struct {
	src       netip.AddrPort
	tos, ttl  uint8
	size, seg int // as in outlet.Datagrams
}

func newReceiveBatch() *receiveBatch {
	r := &receiveBatch{}
	// A power of two apart, they would all share a few sets of the cache.
	const stride = ippkt.MaxPacket + 1 + 256
	all := make([]byte, recvBatch*stride)
	for i := range r.bufs {
		r.bufs[i] = all[i*stride:][:ippkt.MaxPacket:ippkt.MaxPacket]
		sys.SetIovec(&r.iovs[i], r.bufs[i])
		h := &r.msgs[i].Hdr
		h.Name = (*byte)(unsafe.Pointer(&r.name[i]))
		h.Iov = &r.iovs[i]
		h.SetIovlen(1)
		h.Control = &r.ctl[i][0]
	}
	return r
}

// receive takes a batch of messages, and reports whether there may be more.
// Fewer than fit means that the queue was empty: the next arrival is a new
// event.
func (r *receiveBatch) receive(k *hostSocket) (n int, more bool) {
	for i := range r.msgs {
		r.msgs[i].Hdr.Namelen = unix.SizeofSockaddrInet6
		r.msgs[i].Hdr.SetControllen(len(r.ctl[i]))
	}
	s := k.s
	n, errno := sys.Recvmmsg(k.fd, r.msgs[:], unix.MSG_DONTWAIT)
	s.set.counters.recvCalls.Add(1)
	switch errno {
	case 0:
	case unix.EAGAIN:
		return 0, false
	case unix.EBADF, unix.EFAULT, unix.EINVAL, unix.ENOTSOCK:
		s.set.log.Debug("session lost", "proto", s.meta.Network, "src", s.src, "err", errno)
		s.close()
		return 0, false
	default: // of an earlier datagram: its details are on the error queue
		return 0, true
	}
	if !s.gone.Load() {
		s.used.Store(int64(s.set.now()))
	}
	for i := range r.list[:n] {
		r.parse(i)
	}
	return n, n == len(r.msgs)
}

// parse reads what came with message i.
func (r *receiveBatch) parse(i int) {
	m := &r.msgs[i]
	a := arrival{src: sys.GetSockaddr(&r.name[i]), size: int(m.N)}
	a.seg = a.size
	for ctl := r.ctl[i][:m.Hdr.Controllen]; ; {
		level, typ, data, rest := sys.NextCmsg(ctl)
		if rest == nil {
			break
		}
		switch {
		case level == unix.SOL_UDP && typ == unix.UDP_GRO:
			if v := sys.CmsgValue(data); v > 0 {
				a.seg = v
			}
		case level == unix.SOL_IP && typ == unix.IP_TOS, level == unix.SOL_IPV6 && typ == unix.IPV6_TCLASS:
			a.tos = uint8(sys.CmsgValue(data))
		case level == unix.SOL_IP && typ == unix.IP_TTL, level == unix.SOL_IPV6 && typ == unix.IPV6_HOPLIMIT:
			a.ttl = uint8(sys.CmsgValue(data))
		}
		ctl = rest
	}
	r.list[i] = a
}

// deliver writes n arrivals into the TUN. Datagrams of one source and size
// that follow each other become a train even where the kernel has not made
// them one: the application's kernel takes it apart again.
func (s *session) deliver(r *receiveBatch, n int) {
	var count, size int
	for i := range r.list[:n] {
		count += segments(&r.list[i])
		size += r.list[i].size
	}
	s.cameDown(count, size)

	w := s.set.outlet.Writer()
	for i := 0; i < n; {
		a := &r.list[i]
		d := outlet.Datagrams{Hash: s.hash, Src: a.src, Dst: s.src, TOS: a.tos, Size: a.size, Seg: a.seg}
		w.Bufs = append(w.Bufs, r.bufs[i][:a.size])
		segs := segments(a)
		for i++; i < n && s.set.outlet.USO(); i++ {
			b := &r.list[i]
			bs := segments(b)
			if d.Size == 0 || d.Size%d.Seg != 0 || b.size == 0 || b.seg > d.Seg || bs > 1 && b.seg != d.Seg ||
				b.src != d.Src || b.tos != d.TOS || segs+bs > maxSegments || d.Size+b.size > ippkt.MaxPacket-ippkt.MaxHeaders {
				break
			}
			w.Bufs = append(w.Bufs, r.bufs[i][:b.size])
			d.Size += b.size
			segs += bs
		}
		if d.Src.Addr().Is4() == s.src.Addr().Is4() && ippkt.Unicast(d.Src.Addr()) {
			s.set.outlet.UDP(w, &d)
		}
		w.Reset()
	}
	s.set.outlet.Release(w)
}

func segments(a *arrival) int {
	if a.size <= a.seg {
		return 1
	}
	return (a.size + a.seg - 1) / a.seg
}
