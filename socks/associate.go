package socks

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"netstackd/socks/wire"
)

// association is one UDP ASSOCIATE (RFC 1928 §7).
//
// It has a socket towards the client, and one for each address family towards the
// destinations, opened when it is first needed. Datagrams from any sender are passed
// on, so the mapping is independent of the destination (RFC 4787 REQ-1, REQ-8). An
// error of one destination drops one datagram.
type association struct {
	*client
	ctx    context.Context // ends with the association
	flow   Flow
	dialer Dialer
	inside *packetSocket  // towards the client
	wg     sync.WaitGroup // readers and lookups
	active atomic.Int64   // when something was last carried, Unix nanoseconds
	asked  Request        // for the rule; belongs to the inside reader
	names  *names         // nil when names are left to the dialer

	mu     sync.Mutex
	peer   netip.AddrPort // the client's port, pinned by its first datagram
	closed bool
	out    map[string]*packetSocket // by network
	retry  map[string]time.Time     // when to try again to open what failed
}

// openRetry is the time between two attempts to open a socket.
const openRetry = time.Second

var errIdle = errors.New("socks: association was idle")

// associate serves UDP ASSOCIATE. The address in the request is the one that the
// client will send from. It is ignored: clients behind NAT do not know it, and most
// send zeros.
func (c *client) associate(_ context.Context, _ wire.Addr) {
	ctx, cancel := context.WithCancelCause(c.drain.ctx)
	defer cancel(nil)
	c.in.free()
	r := c.describe(wire.Associate, wire.Addr{})
	f, err := c.open(&r, func() { cancel(errKilled) })
	if err != nil {
		c.refuse("", err)
		return
	}
	defer f.Close()
	pc, err := c.cfg.ListenUDP(c.local.Addr())
	if err != nil {
		c.stats.failed.Add(1)
		c.refuse("", err)
		return
	}
	a := &association{
		client: c,
		ctx:    ctx,
		flow:   f,
		inside: newPacketSocket(pc),
		dialer: c.dialer(&r),
		asked:  r,
		out:    make(map[string]*packetSocket),
		retry:  make(map[string]time.Time),
	}
	if c.cfg.Resolver != nil {
		a.names = newNames(a)
	}
	bnd := addrPort(pc.LocalAddr())
	if bnd.Addr().IsUnspecified() { // no address to send to: use the one that the client connected to
		bnd = netip.AddrPortFrom(c.local.Addr(), bnd.Port())
	}
	own := netip.AddrPortFrom(bnd.Addr().WithZone(""), bnd.Port())
	c.relays.Store(own, nil)
	defer c.relays.Delete(own)
	var buf [64]byte
	if c.write(c.answer(buf[:0], wire.ReplySucceeded, bnd, nil)) != nil {
		pc.Close()
		abort(c.conn)
		return
	}
	c.stats.associations.Add(1)
	c.log("associate", "", nil)
	a.run(cancel)
	c.log("association ended", "", context.Cause(ctx))
}

// run serves the association until its connection, its context or its idle
// time ends.
func (a *association) run(cancel context.CancelCauseFunc) {
	unhook := context.AfterFunc(a.ctx, a.shut)
	a.touch()
	timeout := a.cfg.UDPTimeout
	var idle *time.Timer
	ready := make(chan struct{})
	idle = time.AfterFunc(timeout, func() {
		<-ready
		if rest := timeout - time.Since(time.Unix(0, a.active.Load())); rest > 0 {
			idle.Reset(rest)
			return
		}
		cancel(errIdle)
	})
	close(ready)
	a.wg.Go(a.outward)

	// The association ends with its TCP connection (RFC 1928 §7), so this read
	// exists only to notice the close; bytes are ignored.
	var ignored [32]byte
	for {
		if _, err := a.conn.Read(ignored[:]); err != nil {
			break
		}
	}
	cancel(errGone)
	unhook()
	idle.Stop()
	a.shut()
	a.wg.Wait()
}

func (a *association) touch() { a.active.Store(time.Now().UnixNano()) }

// shut closes the sockets, which unblocks their readers.
func (a *association) shut() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return
	}
	a.closed = true
	a.conn.Close()
	a.inside.Close()
	for _, s := range a.out {
		s.Close()
	}
}

func (a *association) drop() { a.stats.datagramsDropped.Add(1) }

// outward carries datagrams from the client to the destinations.
func (a *association) outward() {
	defer a.inside.release()
	for {
		buf, n, from, err := a.inside.read()
		if err != nil {
			if a.ctx.Err() == nil && soft(err) {
				continue
			}
			a.shut()
			return
		}
		if from.Addr() != a.src.Addr() {
			a.drop()
			continue
		}
		dst, payload, err := wire.ParseDatagram(buf[headroom : headroom+n])
		if err != nil || dst.Port == 0 || dst.Check() != nil || !a.pin(from) || !a.allows(&a.asked, dst) {
			a.drop()
			continue
		}
		if dst.IsName() && a.names != nil {
			a.names.send(&a.asked, dst, payload)
		} else {
			a.send(dst, payload)
		}
	}
}

// pin reports whether from is the client's port, which is that of its first
// datagram.
func (a *association) pin(from netip.AddrPort) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.peer.IsValid() {
		a.peer = from
	}
	return a.peer == from
}

// allows reports whether a datagram may go to dst. It changes the destination of
// asked, which describes the association.
func (a *association) allows(asked *Request, dst wire.Addr) bool {
	asked.Dest = dst
	return a.judge(asked) == nil
}

// send sends one datagram to its destination. Any goroutine may call it.
func (a *association) send(dst wire.Addr, payload []byte) {
	s := a.socket(dst)
	if s == nil {
		a.drop()
		return
	}
	var err error
	if dst.IsName() {
		_, err = s.WriteTo(payload, dst)
	} else {
		err = s.write(payload, dst.AddrPort())
	}
	if err != nil {
		a.drop()
		return
	}
	a.touch()
	a.stats.datagramsIn.Add(1)
	a.flow.AddUp(int64(len(payload)))
}

// socket returns the socket for dst, and opens it if there is none; nil = it cannot
// be opened. A dialer that takes names has one socket for all.
func (a *association) socket(dst wire.Addr) *packetSocket {
	network := "udp"
	if a.names != nil {
		network = "udp4"
		if dst.IP.Is6() {
			network = "udp6"
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if s := a.out[network]; s != nil || a.closed {
		return s
	}
	if time.Now().Before(a.retry[network]) {
		return nil
	}
	// An upstream's handshake takes time, and shut must not wait for it.
	a.mu.Unlock()
	ctx, cancel := context.WithTimeout(a.ctx, a.cfg.DialTimeout)
	pc, err := a.dialer.ListenPacket(ctx, network, "")
	cancel()
	a.mu.Lock()
	if err != nil {
		a.log("associate", "", err)
		a.retry[network] = time.Now().Add(openRetry)
		return nil
	}
	if a.closed || a.out[network] != nil { // a lookup's goroutine was faster
		pc.Close()
		return a.out[network]
	}
	s := newPacketSocket(pc)
	a.out[network] = s
	a.wg.Go(func() { a.inward(network, s) })
	return s
}

// inward carries datagrams from the destinations to the client.
func (a *association) inward(network string, s *packetSocket) {
	defer s.release()
	a.mu.Lock()
	peer := a.peer // pinned before anything was sent
	a.mu.Unlock()
	for {
		buf, n, from, err := s.read()
		if err != nil {
			if a.ctx.Err() == nil && soft(err) {
				continue
			}
			break
		}
		// The header goes into the room before the payload.
		var head [headroom]byte
		h, err := wire.AppendDatagramHeader(head[:0], wire.AddrFrom(from))
		if err != nil {
			a.drop()
			continue
		}
		start := headroom - len(h)
		copy(buf[start:], h)
		if a.inside.write(buf[start:headroom+n], peer) != nil {
			a.drop()
			continue
		}
		a.touch()
		a.stats.datagramsOut.Add(1)
		a.flow.AddDown(int64(n))
	}
	s.Close()
	a.mu.Lock()
	if !a.closed {
		// For example, an upstream ended its association. The next datagram makes
		// another.
		delete(a.out, network)
	}
	a.mu.Unlock()
}

var _ net.PacketConn = (*packetSocket)(nil)
