package dns

import (
	"errors"
	"net/netip"
	"sync"
)

var errLoop = errors.New("the nameserver asks netstackd in its turn")

// loops notices queries that come back: a nameserver that is asked for a name
// forwards the query, and it arrives here again. Such a query has the name with
// the very letters in upper case that were chosen at random for it. It is a loop
// if it was sent to the stack's nameserver. One that was captured on its way to
// another nameserver is not: that one is asked. The zero value is ready.
type loops struct {
	mu    sync.Mutex
	asked map[string]netip.AddrPort // question sections under way, and who was asked
}

// enter notes that server is asked a question, until leave is called.
func (l *loops) enter(question []byte, server netip.AddrPort) (leave func()) {
	if !distinct(question) {
		return func() {}
	}
	key := string(question)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.asked == nil {
		l.asked = make(map[string]netip.AddrPort)
	}
	l.asked[key] = server
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.asked, key)
	}
}

// find returns the nameserver that was asked the same question, if any.
func (l *loops) find(question []byte) (netip.AddrPort, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	server, ok := l.asked[string(question)]
	return server, ok
}

// distinctLetters is how many letters a name needs, so that no program writes
// it by chance as we did.
const distinctLetters = 8

// distinct reports whether the case of a question's letters says where it is
// from: programs write names in one case.
func distinct(question []byte) bool {
	var upper, lower int
	for _, c := range question[:len(question)-4] { // its type and class follow the name
		switch {
		case 'A' <= c && c <= 'Z':
			upper++
		case 'a' <= c && c <= 'z':
			lower++
		}
	}
	return upper > 0 && lower > 0 && upper+lower >= distinctLetters
}
