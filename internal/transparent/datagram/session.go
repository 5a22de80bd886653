package datagram

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"netstackd/internal/flow"
	"netstackd/internal/ippkt"
	"netstackd/internal/netstack"
)

// batchLen is how many datagrams of a session may wait to be sent. It is also
// how many one system call sends.
const batchLen = 64

// datagram is one that waits to be sent, or a train of them.
type datagram struct {
	buf      *stack.PacketBuffer // one reference is ours
	dst      netip.AddrPort
	size     int // payload bytes
	seg      int // bytes of each datagram of a train but the last, else size
	df       bool
	ttl, tos uint8
	hdr      [ippkt.UDPLen]byte // the transport header
}

// payload appends the slices of the datagram's payload to bufs.
func (d *datagram) payload(bufs [][]byte) [][]byte {
	p := netstack.Packet{Buf: d.buf}
	return p.AppendPayload(bufs)
}

// batch holds the datagrams that wait to be sent. A session has a batch only while
// datagrams wait.
type batch struct {
	n    int
	list [batchLen]datagram
}

// carrier is the outbound side of a session.
type carrier interface {
	// start begins to receive. It is called once.
	start()
	// blocks reports whether send may block, so that it needs a goroutine.
	blocks() bool
	// send sends a batch. Calls do not overlap.
	send(b *batch)
	// interrupt makes a blocked send return. It is called at most once.
	interrupt()
	// destroy frees the carrier. It is called last and once, when no send runs.
	destroy()
}

// session is one application address and its outbound socket.
type session struct {
	set  *sessionSet
	src  netip.AddrPort
	meta flow.Meta
	hash uint32 // of the TUN queue for answers

	used  atomic.Int64 // when it last carried something, on set.now's clock
	short atomic.Bool  // it has the short timeout
	gone  atomic.Bool  // its application's kernel says that the port is closed

	heap *idleHeap     // guarded, like the next two, by set.idle.mu
	pos  int           // in the heap
	key  time.Duration // used, as the heap knows it

	nextReady *session // owned by set.ready while in it

	mu      sync.Mutex
	state   sessionState
	why     ippkt.Unreachable // when refusing
	carrier carrier           // set when open
	flow    *flow.Flow
	users   int    // goroutines that use carrier; the last one destroys it
	sending bool   // a goroutine sends what is pending
	listed  bool   // in set.ready
	pending *batch // nil when nothing is
}

type sessionState uint8

const (
	opening sessionState = iota
	open
	refusing // it could not be opened, and answers with ICMP errors
	closed
)

// put queues a datagram for the next Flush.
func (s *session) put(p *netstack.Packet, dst netip.AddrPort) {
	size, seg := p.Buf.Data().Size(), int(p.GSOSize)
	if seg == 0 {
		if p.Proto == ippkt.ProtoUDP {
			size = int(be16(p.Transport[4:])) - ippkt.UDPLen // what follows is padding
		}
		seg = size
	}
	s.mu.Lock()
	if s.pending != nil && s.pending.n == batchLen && s.state == open && !s.sending && !s.carrier.blocks() {
		s.mu.Unlock()
		s.flush(false)
		s.mu.Lock()
	}
	if s.state == refusing {
		why := s.why
		s.mu.Unlock()
		s.set.counters.droppedSend.Add(1)
		q := quoteOf(p)
		s.set.localError(s.hash, why.Message(p.Dst), &q)
		if s.set.inline {
			s.close() // the next packet tries again, which costs little
		}
		return
	}
	if s.state == closed || (s.pending != nil && s.pending.n == batchLen) {
		s.mu.Unlock()
		s.set.counters.droppedQueue.Add(1)
		return
	}
	if s.pending == nil {
		s.pending = s.set.batches.Get().(*batch)
	}
	b := s.pending
	b.list[b.n] = datagram{
		buf: p.Buf.IncRef(), dst: dst, size: size, seg: seg,
		df: p.DF && !reassembled(p), ttl: p.TTL, tos: p.TOS, hdr: [ippkt.UDPLen]byte(p.Transport),
	}
	b.n++
	list := !s.listed
	s.listed = true
	s.mu.Unlock()
	if list {
		s.set.ready.put(s)
	}
	if s.gone.Load() {
		s.gone.Store(false)
	}
}

// reassembled reports whether an IPv6 packet came in fragments, so that it may be
// fragmented again. Other extension headers are not used with UDP in practice.
func reassembled(p *netstack.Packet) bool {
	return !p.Src.Is4() && len(p.Network) > ippkt.IPv6Len
}

// quote is what an ICMP error about d quotes.
func (s *session) quote(d *datagram) ippkt.Quote {
	q := ippkt.Quote{
		Src: s.src.Addr(), Dst: d.dst.Addr(), Proto: s.proto(), TTL: d.ttl, TOS: d.tos, DF: d.df,
		Transport: d.hdr, Size: d.size,
	}
	if d.buf != nil {
		q.Payload = d.payload(nil)
	}
	return q
}

// proto is the IP protocol of the application's packets.
func (s *session) proto() uint8 {
	switch {
	case s.meta.Network == "udp":
		return ippkt.ProtoUDP
	case s.src.Addr().Is4():
		return ippkt.ProtoICMP
	}
	return ippkt.ProtoICMPv6
}

// flush sends the pending batch. If another goroutine is sending for this session,
// that goroutine sends this batch as well. Taken reports that the caller has
// removed s from set.ready.
func (s *session) flush(taken bool) {
	s.mu.Lock()
	if taken {
		s.listed = false
	}
	if s.state != open || s.sending || s.pending == nil {
		s.mu.Unlock()
		return
	}
	s.sending = true
	s.users++
	s.mu.Unlock()
	if !s.carrier.blocks() {
		s.send()
	} else if !s.set.spawn(s.send) {
		s.mu.Lock() // Serve has ended, and closes the session
		s.sending = false
		s.leaveUnlock()
	}
}

// send sends until nothing is pending. The caller has set s.sending and counts in
// s.users.
func (s *session) send() {
	for {
		s.mu.Lock()
		b := s.pending
		s.pending = nil
		if b == nil {
			s.sending = false
			s.leaveUnlock()
			return
		}
		s.mu.Unlock()
		s.carrier.send(b)
		s.set.releaseBatch(b)
	}
}

// quoteOf is the quote of a packet as it came.
func quoteOf(p *netstack.Packet) ippkt.Quote {
	return ippkt.Quote{
		Src: p.Src, Dst: p.Dst, Proto: p.Proto, TTL: p.TTL, TOS: p.TOS, DF: p.DF,
		Transport: [ippkt.UDPLen]byte(p.Transport), Payload: p.AppendPayload(nil), Size: p.Buf.Data().Size(),
	}
}

// wentUp counts n datagrams that were sent to their destinations, with size
// bytes in all.
func (s *session) wentUp(n, size int) {
	c := &s.set.counters
	c.up.Add(uint64(n))
	c.upBytes.Add(uint64(size))
	s.flow.AddUp(int64(size))
}

// cameDown counts n datagrams that came from destinations, as wentUp does.
func (s *session) cameDown(n, size int) {
	c := &s.set.counters
	c.down.Add(uint64(n))
	c.downBytes.Add(uint64(size))
	s.flow.AddDown(int64(size))
}

// enter counts the caller as a user of s.carrier, until it calls leave. It reports
// false if the session is not open.
func (s *session) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != open {
		return false
	}
	s.users++
	return true
}

func (s *session) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state == closed
}

func (s *session) leave() {
	s.mu.Lock()
	s.leaveUnlock()
}

// leaveUnlock ends a use of s.carrier. s.mu is held by the caller and is unlocked.
func (s *session) leaveUnlock() {
	s.users--
	last := s.state == closed && s.users == 0
	s.mu.Unlock()
	if last {
		s.destroy()
	}
}

// close ends the session. It does not wait: the last user of its carrier destroys
// it. It is idempotent.
func (s *session) close() {
	s.mu.Lock()
	if s.state == closed {
		s.mu.Unlock()
		return
	}
	s.state = closed
	b := s.pending
	s.pending = nil
	out := s.carrier
	last := s.users == 0
	s.mu.Unlock()

	s.set.table.remove(s)
	s.set.idle.remove(s)
	if b != nil {
		s.set.releaseBatch(b)
	}
	if out != nil {
		out.interrupt()
	}
	if last {
		s.destroy()
	}
}

// destroy frees what the session holds. There is no user left.
func (s *session) destroy() {
	if s.carrier != nil {
		s.carrier.destroy()
	}
	if s.flow != nil {
		s.flow.Close()
	}
}

// releaseBatch gives back a batch and the packets in it.
func (u *sessionSet) releaseBatch(b *batch) {
	for i := range b.list[:b.n] {
		b.list[i].buf.DecRef()
	}
	clear(b.list[:b.n])
	b.n = 0
	u.batches.Put(b)
}
