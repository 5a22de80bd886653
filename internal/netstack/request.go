package netstack

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"netstackd/internal/ippkt"
)

// Request is a SYN for a foreign address that is not answered yet. Exactly
// one of Accept, Refuse, Ignore and Unreachable ends it; until then the
// application's repeated SYNs are ignored.
type Request struct {
	s     *Stack
	fr    *tcp.ForwarderRequest
	id    stack.TransportEndpointID // gVisor forgets it in the end
	quote []byte
}

// handleSYN takes TCP segments that belong to no endpoint. It reports whether
// it took the segment; others are answered with RST.
func (s *Stack) handleSYN(fwd *tcp.Forwarder, id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	flags := header.TCP(pkt.TransportHeader().Slice()).Flags()
	if flags&(header.TCPFlagSyn|header.TCPFlagAck|header.TCPFlagRst) != header.TCPFlagSyn ||
		s.cfg.Connect == nil || s.isOwn(id.LocalAddress) {
		return false
	}
	s.synMu.Lock()
	_, pending := s.syns[id]
	full := !pending && s.queue.full(id.RemoteAddress, s.uptime)
	if !pending && !full {
		s.syns[id] = packetQuote(pkt)
		s.wg.Add(1)
	}
	s.synMu.Unlock()
	if full {
		s.counters.overload.Add(1)
	}
	if pending || full {
		return true
	}
	s.queue.waiting.Add(1)
	if !fwd.HandlePacket(id, pkt) {
		s.queue.waiting.Add(-1)
		s.forgetSYN(id)
		s.wg.Done()
		return false
	}
	return true
}

func (s *Stack) forgetSYN(id stack.TransportEndpointID) {
	s.synMu.Lock()
	delete(s.syns, id)
	s.synMu.Unlock()
}

// serveRequest has one request answered.
func (s *Stack) serveRequest(fr *tcp.ForwarderRequest) {
	defer s.wg.Done()
	s.queue.waiting.Add(-1)
	s.synMu.Lock()
	quote := s.syns[fr.ID()]
	s.synMu.Unlock()
	s.cfg.Connect(&Request{s, fr, fr.ID(), quote})
}

// complete ends the request in gVisor, once.
func (r *Request) complete(reset bool) {
	r.fr.Complete(reset)
	r.s.forgetSYN(r.id)
}

// Source returns the application's end.
func (r *Request) Source() netip.AddrPort { return idSource(r.id) }

// Dest returns what the application wants to connect to.
func (r *Request) Dest() netip.AddrPort { return idDest(r.id) }

// DSCP returns the differentiated services field of the application's SYN, with
// the bits of ECN cleared: those are of the path, not of the flow (RFC 3168).
func (r *Request) DSCP() uint8 {
	const ecn = 3
	switch {
	case len(r.quote) < 2:
		return 0
	case r.Source().Addr().Is4():
		return r.quote[1] &^ ecn
	}
	return (r.quote[0]<<4 | r.quote[1]>>4) &^ ecn
}

// Accept completes the handshake with the application and waits for its end,
// or that of ctx, whose cause it then returns. A SYN with a false source never
// gets an ACK, so ctx should have a deadline.
func (r *Request) Accept(ctx context.Context) (*Conn, error) {
	if r.s.closing.Load() { // the link would drop our SYN-ACK
		r.complete(false)
		return nil, net.ErrClosed
	}
	h := &handshake{}
	stop := context.AfterFunc(ctx, h.abandon)
	ep, err := r.fr.CreateEndpoint(&h.wq)
	h.over.Store(true)
	stop()
	r.complete(false)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		return nil, Errno(err)
	}
	r.s.queue.completed(r.id.RemoteAddress)
	return r.s.newConn(ep, &h.wq), nil
}

// handshake is one that waits for the application's ACK.
type handshake struct {
	wq   waiter.Queue
	over atomic.Bool
}

// abandon ends the wait: gVisor takes a connection that becomes writable before
// it is connected for one that has failed. It may not have registered for that
// event yet, so the event is repeated.
func (h *handshake) abandon() {
	if h.over.Load() {
		return
	}
	h.wq.Notify(waiter.WritableEvents)
	time.AfterFunc(abandonAgain, h.abandon)
}

const abandonAgain = time.Millisecond

// Refuse makes the port look closed, with RST.
func (r *Request) Refuse() { r.complete(true) }

// Ignore is silence: the application's next SYN is a new request.
func (r *Request) Ignore() { r.complete(false) }

// Unreachable makes the destination look unreachable.
func (r *Request) Unreachable(why ippkt.Unreachable) {
	from, quote := r.Dest().Addr(), r.quote
	r.complete(false)
	r.s.WriteUnreachable(from, quote, why)
}
