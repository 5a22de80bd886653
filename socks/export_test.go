package socks

import "net/netip"

// CountHashes makes c count the costly comparisons that it makes from now on.
func CountHashes(c *Credentials) (count func() int) {
	n := 0
	counting := func(s secret) secret {
		if s.cost() == 0 {
			return s
		}
		return countedSecret{s, &n}
	}
	for user, s := range c.users {
		c.users[user] = counting(s)
	}
	c.decoy = counting(c.decoy)
	return func() int { return n }
}

type countedSecret struct {
	secret
	n *int
}

func (s countedSecret) matches(pass string) bool {
	*s.n++
	return s.secret.matches(pass)
}

// Gate is the limiter of handshakes and dials.
type Gate = gate

// NewGate makes a Gate.
var NewGate = newGate

// Enter takes a place, and returns how to leave it, nil if there was none.
func (g *gate) Enter(client netip.Addr, evict func()) (leave func()) {
	p, ok := g.enter(client, evict)
	if !ok {
		return nil
	}
	return p.leave
}

// Shed is shed.
func (g *gate) Shed() bool { return g.shed() }

// Now returns how many places are taken.
func (g *gate) Now() int {
	now, _, _ := g.stats()
	return now
}
