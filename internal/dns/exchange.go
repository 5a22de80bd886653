package dns

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"netstackd/internal/flow"
)

var (
	errCase   = errors.New("the nameserver doesn't keep the case of letters")
	errForged = errors.New("too many answers that don't fit the question")
)

// exchange asks one nameserver: over UDP, and over TCP where that doesn't do
// or is silent, as an upstream is that takes UDP and drops it.
func (s *Server) exchange(ctx context.Context, server netip.AddrPort, q *query, source netip.AddrPort) ([]byte, error) {
	if s.silent.overTCP(server, time.Now()) {
		return s.exchangeTCP(ctx, server, q, source)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	udp := make(chan tried, 1)
	s.tasks.Go(func() {
		answer, err := s.exchangeUDP(ctx, server, q, source)
		udp <- tried{server, answer, err}
	})
	patience := time.NewTimer(s.cfg.Stagger)
	defer patience.Stop()
	var first tried
	select {
	case first = <-udp:
		if first.err == nil && !truncated(first.answer) {
			return first.answer, nil
		}
		udp = nil
	case <-patience.C:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	tcp := make(chan tried, 1)
	s.tasks.Go(func() {
		answer, err := s.exchangeTCP(ctx, server, q, source)
		tcp <- tried{server, answer, err}
	})
	select {
	case late := <-udp:
		if late.err == nil && !truncated(late.answer) {
			return late.answer, nil
		}
		first = late
		udp = nil
	case second := <-tcp:
		return s.settle(ctx, server, first, second, udp)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	select {
	case second := <-tcp:
		return s.settle(ctx, server, first, second, nil)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// settle chooses between what TCP said and what UDP did, which is not done yet
// if udp isn't nil.
func (s *Server) settle(ctx context.Context, server netip.AddrPort, first, second tried, udp <-chan tried) ([]byte, error) {
	if second.err == nil {
		if udp != nil || first.err != nil {
			s.silent.noteUDP(server, time.Now())
		}
		return second.answer, nil
	}
	if udp != nil {
		select {
		case first = <-udp:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	if first.err == nil {
		return first.answer, nil // cut is better than none
	}
	return nil, errors.Join(first.err, second.err)
}

// maxForged is how many answers that don't fit are read before giving up on UDP.
const maxForged = 16

// exchangeUDP asks on a socket of its own, which has a random port.
func (s *Server) exchangeUDP(ctx context.Context, server netip.AddrPort, q *query, source netip.AddrPort) ([]byte, error) {
	meta := &flow.Meta{Inbound: flow.Internal, Network: "udp", Source: source, Dest: server}
	c, err := s.dialer.DialContext(ctx, meta, "udp", server.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	random := make([]byte, 2+32) // a name has at most 255 bytes
	rand.Read(random)
	o := q.ask(binary.BigEndian.Uint16(random), random[2:])
	defer s.loops.enter(o.question, server)()
	if _, err := c.Write(o.msg); err != nil {
		return nil, err
	}
	buf := buffers.Get().(*[maxMessage]byte)
	defer buffers.Put(buf)
	for range maxForged {
		n, err := c.Read(buf[:])
		if err != nil {
			return nil, err
		}
		switch o.check(buf[:n]) {
		case fits:
			return append([]byte(nil), buf[:n]...), nil
		case otherCase:
			return nil, errCase
		default:
			s.forged.Add(1)
		}
	}
	return nil, errForged
}

// exchangeTCP asks on a connection that others use too. One that was there
// before may be closed by the nameserver at any time: then it is tried again.
func (s *Server) exchangeTCP(ctx context.Context, server netip.AddrPort, q *query, source netip.AddrPort) ([]byte, error) {
	s.tcp.Add(1)
	for {
		st, used, err := s.stream(server, source)
		if err != nil {
			return nil, err
		}
		answer, err := st.exchange(ctx, q)
		if err == nil || !used || ctx.Err() != nil {
			return answer, err
		}
	}
}
