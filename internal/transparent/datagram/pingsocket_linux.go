package datagram

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"netstackd/internal/ippkt"
	"netstackd/internal/sys"
)

// pingSocket is the carrier of an Echo session.
type pingSocket struct {
	hostSocket
	raw bool
	id  uint16 // on the wire, when raw; a ping socket's is the kernel's
}

func newPingSocket(s *session, c net.PacketConn, raw bool) (carrier, error) {
	defer c.Close()
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("ping: %T has no descriptor", c)
	}
	// A raw socket gets the replies for all sockets. A random identifier marks
	// those of this session: another session may have the application's own.
	k := &pingSocket{raw: raw, id: uint16(rand.Uint32())}
	ttl := option{"IP_RECVTTL", unix.IP_RECVTTL, unix.IPV6_RECVHOPLIMIT}
	if err := k.adopt(s, sc, k.run, k.quoted, ttl); err != nil {
		return nil, err
	}
	return k, nil
}

// send implements carrier. Pings are few: each has a system call.
func (k *pingSocket) send(b *batch) {
	w := k.s.set.scratch.senders.Get().(*sender)
	for i := range b.list[:b.n] {
		d := &b.list[i]
		hdr := d.hdr
		if k.raw {
			setEchoID(hdr[:], k.id)
		}
		w.n = 1
		w.list[0] = message{d: d, size: d.size, count: 1, df: d.df}
		w.bufs = d.payload(append(w.bufs, hdr[:]))
		w.finish()
		w.msgs[0].Hdr.SetIovlen(len(w.bufs))
		stop := k.transmit(&w.list[0], w.msgs[:1])
		w.reset()
		if stop {
			for ; i < b.n; i++ {
				k.s.set.counters.droppedSend.Add(1)
			}
			break
		}
	}
	k.s.set.scratch.senders.Put(w)
}

// transmit sends one request. It reports whether the rest has to be dropped.
func (k *pingSocket) transmit(m *message, msg []sys.Mmsghdr) (stop bool) {
	c := &k.s.set.counters
	for tries := 1; ; tries++ {
		k.setMode(m.df)
		_, errno := sys.Sendmmsg(k.fd, msg, unix.MSG_DONTWAIT)
		c.sendCalls.Add(1)
		if errno == 0 {
			k.s.wentUp(1, m.size)
			return false
		}
		switch k.refused(m.d, errno, tries) {
		case tryAgain:
		case tryFragmented:
			m.df = false
		case dropPacket:
			c.droppedSend.Add(1)
			return false
		case dropBatch:
			return true
		}
	}
}

// run is the session's task.
func (k *pingSocket) run() {
	k.serve(func() bool {
		r := k.s.set.scratch.receives.Get().(*receiveBatch)
		defer k.s.set.scratch.receives.Put(r)
		n, more := r.receive(&k.hostSocket)
		for i := range r.list[:n] {
			k.deliver(&r.list[i], r.bufs[i][:r.list[i].size])
		}
		return more
	})
}

// deliver passes a reply on, with the identifier that the application chose.
func (k *pingSocket) deliver(a *arrival, msg []byte) {
	s := k.s
	want, proto := byte(ippkt.ICMP6EchoReply), uint8(ippkt.ProtoICMPv6)
	if k.v4() {
		want, proto = ippkt.ICMP4EchoReply, ippkt.ProtoICMP
		if k.raw { // comes with its IP header (raw(7))
			if len(msg) < ippkt.IPv4Len || len(msg) < int(msg[0]&0xf)*4 {
				return
			}
			msg = msg[int(msg[0]&0xf)*4:]
		}
	}
	src := a.src.Addr()
	if len(msg) < ippkt.ICMPLen || msg[0] != want || src.Is4() != k.v4() || !ippkt.Unicast(src) {
		return
	}
	if k.raw && be16(msg[4:]) != k.id {
		return
	}
	s.cameDown(1, len(msg)-ippkt.ICMPLen)

	binary.BigEndian.PutUint16(msg[4:], s.src.Port())
	ippkt.PutICMPChecksum(msg, src, s.src.Addr())
	ip := ippkt.Header{Src: src, Dst: s.src.Addr(), Proto: proto, TTL: max(a.ttl, 2) - 1, TOS: a.tos}
	w := s.set.outlet.Writer()
	w.Bufs = append(w.Bufs, msg)
	s.set.outlet.Packet(w, s.hash, &ip, len(msg))
	s.set.outlet.Release(w)
}

// quoted is the application's request that a late error is about.
func (k *pingSocket) quoted(e *sys.QueuedError) (ippkt.Quote, bool) {
	s := k.s
	if len(e.Payload) < ippkt.ICMPLen || k.raw && be16(e.Payload[4:]) != k.id {
		return ippkt.Quote{}, false
	}
	q := ippkt.Quote{
		Src: s.src.Addr(), Dst: e.Dst.Addr(), Proto: s.proto(), TTL: 1,
		Payload: [][]byte{e.Payload[ippkt.ICMPLen:]}, Size: len(e.Payload) - ippkt.ICMPLen,
	}
	copy(q.Transport[:], e.Payload)
	setEchoID(q.Transport[:], s.src.Port())
	want := uint8(ippkt.ICMP6EchoRequest)
	if k.v4() {
		want = ippkt.ICMP4EchoRequest
	}
	return q, q.Transport[0] == want && q.Dst.IsValid()
}

// setEchoID changes the identifier of an echo message whose header is in hdr.
func setEchoID(hdr []byte, id uint16) {
	binary.BigEndian.PutUint16(hdr[2:], ippkt.Update(be16(hdr[2:]), be16(hdr[4:]), id))
	binary.BigEndian.PutUint16(hdr[4:], id)
}
