package datagram

import (
	"context"
	"errors"
	"net/netip"
	"syscall"
	"time"

	"netstackd/internal/flow"
	"netstackd/internal/ippkt"
)

// maxEvictions bounds how many sessions one new one may cost. More than one is
// needed if another goroutine takes the descriptor that the first one frees.
const maxEvictions = 4

// How many sessions other hosts may open, all hosts together. Opening a session's
// socket takes 0.1 to 0.4 ms of the goroutine that delivers the packets of a TUN
// queue. Datagrams from spoofed addresses would each open one and leave no time
// for other traffic. A burst delays other packets by at most 40 ms; the rate
// takes at most 40 % of the goroutine's time. Open sessions are not limited.
const (
	remoteOpensPerSecond = 1000
	remoteOpensBurst     = 100
)

// openSession returns the session of src, which it makes unless another
// goroutine was quicker; nil if there is no room for it.
func (u *sessionSet) openSession(network string, src, dst netip.AddrPort, hash uint32, short bool) *session {
	if u.flows.Remote(src.Addr()) && !u.remoteOpens.Allow() {
		u.counters.refused.Add(1)
		return nil
	}
	s := &session{
		set: u, src: src, hash: hash, users: 1, // the opener
		meta: flow.Meta{Inbound: flow.Transparent, Network: network, Source: src, Dest: dst},
	}
	s.used.Store(int64(u.now()))
	s.short.Store(short)
	if other := u.table.add(s); other != nil {
		return other
	}
	if !u.register(s) {
		s.close()
		s.leave()
		return nil
	}
	if u.idle.add(s) {
		u.notify()
	}
	if s.isClosed() { // killed in between
		u.idle.remove(s)
	}
	if !u.launch(s) {
		s.close()
		s.leave()
		return nil
	}
	return s
}

// register enters s in the flow registry, at the cost of an older session if
// there is no room.
func (u *sessionSet) register(s *session) bool {
	for range maxEvictions {
		f, err := u.flows.Open(s.meta, s.close)
		if err == nil {
			s.mu.Lock()
			s.flow = f
			s.mu.Unlock()
			return true
		}
		if !errors.Is(err, flow.ErrLimit) || errors.Is(err, flow.ErrPerSource) || !u.evict(s) {
			break
		}
	}
	u.counters.refused.Add(1)
	return false
}

// EvictSession ends the session that has been idle for longest, so that another flow
// may have its place, and reports whether there was one.
func (u *sessionSet) EvictSession() bool { return u.evict(nil) }

// evict ends the session that has been idle for longest, and reports whether
// there was one.
func (u *sessionSet) evict(keep *session) bool {
	s := u.idle.evict(keep)
	if s == nil {
		return false
	}
	u.counters.evicted.Add(1)
	s.close()
	return true
}

// launch opens the session's socket, here or on a goroutine, and reports false
// after the end of Serve.
func (u *sessionSet) launch(s *session) bool {
	u.mu.Lock()
	if u.closed {
		u.mu.Unlock()
		return false
	}
	if !u.inline {
		u.opens = append(u.opens, s)
		u.mu.Unlock()
		u.notify()
		return true
	}
	u.mu.Unlock()
	u.open(context.Background(), s)
	return true
}

// startOpens starts to open the sessions that wait for it.
func (u *sessionSet) startOpens(ctx context.Context) {
	u.mu.Lock()
	opens := u.opens
	u.opens = nil
	for _, s := range opens {
		u.wg.Go(func() { u.open(ctx, s) })
	}
	u.mu.Unlock()
}

// open gets the session its socket.
func (u *sessionSet) open(ctx context.Context, s *session) {
	var out carrier
	var err error
	for range maxEvictions {
		out, err = u.dial(ctx, s)
		if !errors.Is(err, syscall.EMFILE) && !errors.Is(err, syscall.ENFILE) || !u.evict(s) {
			break
		}
	}
	if err != nil {
		u.counters.refused.Add(1)
		u.log.Debug("session refused", "proto", s.meta.Network, "src", s.src, "dst", s.meta.Dest, "err", err)
		s.fail(err)
		return
	}
	s.opened(out)
}

// opened starts the carrier, and sends what was queued while it was opened.
func (s *session) opened(out carrier) {
	s.mu.Lock()
	s.carrier = out
	if s.state == closed {
		out.interrupt()
		s.leaveUnlock()
		return
	}
	s.state = open
	s.mu.Unlock()
	s.set.counters.opened.Add(1)
	out.start()
	s.flush(false)
	s.leave()
}

// refuseFor is how long a session that an upstream refused answers datagrams by
// itself, so that the upstream is not asked again for each of them.
const refuseFor = time.Second

// fail answers the application's first datagrams with ICMP errors, and ends the
// session: at once, or after refuseFor.
func (s *session) fail(err error) {
	why, ok := reasonOf(err)
	if !ok && (s.meta.Network == "udp" || errors.Is(err, syscall.EPERM)) {
		// An upstream without UDP, or a host that permits no ping socket: an error
		// ends the application's wait.
		why, ok = ippkt.AdminProhibited, true
	}
	s.mu.Lock()
	b := s.pending
	s.pending = nil
	refuses := ok && s.state == opening
	if refuses {
		s.state, s.why = refusing, why
	}
	s.mu.Unlock()
	if b != nil {
		for i := range b.list[:b.n] {
			if ok {
				s.refuse(&b.list[i], why)
			}
		}
		s.set.releaseBatch(b)
	}
	switch {
	case !refuses:
		s.close()
	case !s.set.inline:
		time.AfterFunc(refuseFor, s.close)
	} // else put does, when it has refused the packet that opened the session
	s.leave()
}

// reasonOf translates what a socket says about a destination.
func reasonOf(err error) (ippkt.Unreachable, bool) {
	switch {
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL):
		return ippkt.NetUnreachable, true
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EHOSTDOWN):
		return ippkt.HostUnreachable, true
	}
	return 0, false
}

// refuse answers a datagram with an ICMP error from its destination. That address
// is routed to the TUN, so that no reverse path filter drops the error.
func (s *session) refuse(d *datagram, why ippkt.Unreachable) {
	q := s.quote(d)
	s.set.localError(s.hash, why.Message(d.dst.Addr()), &q)
}

// expire ends the sessions that are idle, and says when to look again.
func (u *sessionSet) expire() (wait time.Duration, ok bool) {
	list, wait, ok := u.idle.expired(u.now())
	for _, s := range list {
		u.counters.expired.Add(1)
		s.close()
	}
	return wait, ok
}
