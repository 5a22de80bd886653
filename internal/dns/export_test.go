package dns

import (
	"context"
	"net/netip"
	"time"
)

// ExchangeTCP asks a nameserver over TCP.
func (s *Server) ExchangeTCP(ctx context.Context, server netip.AddrPort, q Query) ([]byte, error) {
	return s.exchangeTCP(ctx, server, q.q, netip.AddrPort{})
}

// StreamQueries is how many queries one connection takes at once.
const StreamQueries = streamQueries

// Query is a parsed query, for the fuzz test: what is made of it and of answers.
type Query struct{ q *query }

// ParseQuery is parseQuery.
func ParseQuery(raw []byte) (Query, error) {
	q, err := parseQuery(raw)
	return Query{q}, err
}

// Valid reports whether there is something to answer.
func (q Query) Valid() bool { return q.q != nil }

// Ask returns what a nameserver gets.
func (q Query) Ask(id uint16, noise []byte) []byte { return q.q.ask(id, noise).msg }

// Fits reports whether answer is taken for one to Ask's message.
func (q Query) Fits(id uint16, noise, answer []byte) bool {
	return q.q.ask(id, noise).check(answer) == fits
}

// Answer, Cut and Fail return what the program gets.
func (q Query) Answer(msg []byte) []byte { return q.q.answer(msg) }
func (q Query) Cut(msg []byte) []byte    { return q.q.cut(msg) }
func (q Query) Fail() []byte             { return q.q.fail(2) }

// Remembered is how many of n silent nameservers are remembered.
func Remembered(n int, now time.Time) int {
	var s silence
	for i := range n {
		s.note(now, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 53))
	}
	return len(s.until)
}
