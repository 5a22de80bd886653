package dns

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"netstackd/internal/flow"
)

// rounds is how often each nameserver may be asked for one query.
const rounds = 2

// resolve returns the answer for a program's message, nil for none.
func (s *Server) resolve(ctx context.Context, raw []byte, from client) []byte {
	q, err := parseQuery(raw)
	switch {
	case errors.Is(err, errIgnore):
		s.dropped.Add(1)
		return nil
	case errors.Is(err, errMalform):
		s.dropped.Add(1)
		q.question, q.edns = nil, false
		return q.fail(dnsmessage.RCodeFormatError)
	case err != nil:
		s.dropped.Add(1)
		return q.fail(dnsmessage.RCodeNotImplemented)
	}
	s.queries.Add(1)
	if s.cfg.NoIPv6 && q.typ == dnsmessage.TypeAAAA && q.class == dnsmessage.ClassINET {
		return q.fail(dnsmessage.RCodeSuccess)
	}
	answer, err := s.forward(ctx, q, from)
	if err != nil {
		s.failed.Add(1)
		s.cfg.Logger.Debug("dns query", "proto", "dns", "src", from.source, "dst", q.name, "err", err)
		return q.fail(dnsmessage.RCodeServerFailure)
	}
	s.answered.Add(1)
	return q.answer(answer)
}

// tried is what became of asking one nameserver.
type tried struct {
	server netip.AddrPort
	answer []byte
	err    error
}

var errNoServers = errors.New("no nameserver is configured")

// forward asks the nameservers until one answers. The second and later ones
// are asked beside those before them.
func (s *Server) forward(ctx context.Context, q *query, from client) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	forwarder, returned := s.loops.find(q.question)
	if returned && (!from.asked.IsValid() || from.asked == forwarder) {
		s.warn(forwarder, errLoop)
		s.silent.note(time.Now(), forwarder)
		return nil, errLoop
	}
	servers, err := s.permitted(s.servers(q, from.asked, returned), from.source)
	if err != nil {
		return nil, err
	}
	servers = s.silent.order(servers, time.Now())
	if len(servers) == 0 {
		return nil, errNoServers
	}
	// Each attempt has room for its result, so none waits for this to read.
	results := make(chan tried, rounds*len(servers))
	attempts := slices.Repeat(servers, rounds)
	waiting := make(map[netip.AddrPort]int) // attempts under way
	var asked []netip.AddrPort              // in this order, once each
	next := func() {
		if len(attempts) == 0 {
			return
		}
		server := attempts[0]
		attempts = attempts[1:]
		waiting[server]++
		if !slices.Contains(asked, server) {
			asked = append(asked, server)
		}
		s.tasks.Go(func() {
			answer, err := s.exchange(ctx, server, q, from.source)
			results <- tried{server, answer, err}
		})
	}
	stagger := time.NewTicker(s.cfg.Stagger)
	defer stagger.Stop()
	var refusal []byte // an answer that says that there is none
	var failure error
	for next(); len(waiting) > 0; {
		select {
		case <-stagger.C:
			next()
			continue
		case <-ctx.Done():
			s.silent.note(time.Now(), slices.Collect(maps.Keys(waiting))...)
			return refusal, orNil(refusal, context.Cause(ctx))
		case r := <-results:
			if waiting[r.server]--; waiting[r.server] == 0 {
				delete(waiting, r.server)
			}
			if r.err == nil && final(r.answer) {
				// Those asked before it and not heard of are too slow.
				for _, server := range asked[:slices.Index(asked, r.server)] {
					if waiting[server] > 0 {
						s.silent.note(time.Now(), server)
					}
				}
				s.silent.forget(r.server)
				return r.answer, nil
			}
			if r.err != nil {
				failure = r.err
				s.silent.note(time.Now(), r.server)
			} else {
				refusal = r.answer
			}
			// It would say the same in the second round.
			attempts = slices.DeleteFunc(attempts, func(a netip.AddrPort) bool { return a == r.server })
			next()
		}
	}
	return refusal, orNil(refusal, failure)
}

// permitted returns the nameservers that may be asked for a query from source.
// The error says why none may.
func (s *Server) permitted(servers []netip.AddrPort, source netip.AddrPort) ([]netip.AddrPort, error) {
	if s.cfg.Permit == nil {
		return servers, nil
	}
	m := flow.Meta{Inbound: flow.Internal, Network: "udp", Source: source}
	if err := s.cfg.Permit(&m); err != nil {
		return nil, err
	}
	var out []netip.AddrPort
	var refused error
	for _, m.Dest = range servers {
		if err := s.cfg.Permit(&m); err != nil {
			refused = err
			s.warn(m.Dest, err)
			continue
		}
		out = append(out, m.Dest)
	}
	if len(out) == 0 {
		return nil, refused
	}
	return out, nil
}

// warn says once of each nameserver why it is of no use.
func (s *Server) warn(server netip.AddrPort, err error) {
	if _, said := s.skipped.LoadOrStore(server, true); !said {
		s.cfg.Logger.Warn("a nameserver is of no use: name another in /etc/resolv.conf", "server", server, "err", err)
	}
}

// servers are those to ask, first choice first. A captured query is asked the
// nameserver that it was meant for. The others may answer in its place if the
// client wants recursion: they say what they have heard, and nothing by their
// own authority. They may not if the query has returned: a nameserver of theirs
// forwards it, and would forward it again.
func (s *Server) servers(q *query, asked netip.AddrPort, returned bool) []netip.AddrPort {
	if !asked.IsValid() {
		return s.cfg.Servers()
	}
	list := []netip.AddrPort{asked}
	if s.cfg.Captured == AskedFirst && q.recursion() && !returned {
		for _, other := range s.cfg.Servers() {
			if other != asked {
				list = append(list, other)
			}
		}
	}
	return list
}

// orNil returns err unless there is an answer.
func orNil(answer []byte, err error) error {
	if answer != nil {
		return nil
	}
	return err
}

// final reports whether an answer says something about the name, rather than
// about the server.
func final(answer []byte) bool {
	switch rcodeOf(answer) {
	case dnsmessage.RCodeServerFailure, dnsmessage.RCodeRefused, dnsmessage.RCodeNotImplemented:
		return false
	}
	return true
}

// silenceTime is how long a nameserver that failed is asked last.
const silenceTime = 30 * time.Second

// silence knows the nameservers that failed lately. The zero value is ready.
type silence struct {
	mu    sync.Mutex
	until map[netip.AddrPort]time.Time // silent
	noUDP map[netip.AddrPort]time.Time // answers over TCP alone
}

func (s *silence) note(now time.Time, servers ...netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.until == nil {
		s.until = make(map[netip.AddrPort]time.Time)
	}
	for _, server := range servers {
		remember(s.until, server, now)
	}
}

// silenceMost bounds how many nameservers are remembered: which ones captured
// queries are meant for is the clients' choice.
const silenceMost = 1024

// remember notes that a server failed, in place of all that is over if there is
// no more room.
func remember(m map[netip.AddrPort]time.Time, server netip.AddrPort, now time.Time) {
	if len(m) >= silenceMost {
		maps.DeleteFunc(m, func(_ netip.AddrPort, until time.Time) bool { return !until.After(now) })
	}
	if len(m) < silenceMost {
		m[server] = now.Add(silenceTime)
	}
}

func (s *silence) forget(server netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.until, server)
}

// order returns servers with the silent ones last, else as they were.
func (s *silence) order(servers []netip.AddrPort, now time.Time) []netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	var good, bad []netip.AddrPort
	for _, server := range servers {
		if s.until[server].After(now) {
			bad = append(bad, server)
		} else {
			good = append(good, server)
		}
	}
	return append(good, bad...)
}

func (s *silence) noteUDP(server netip.AddrPort, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.noUDP == nil {
		s.noUDP = make(map[netip.AddrPort]time.Time)
	}
	remember(s.noUDP, server, now)
}

func (s *silence) overTCP(server netip.AddrPort, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.noUDP[server].After(now)
}
