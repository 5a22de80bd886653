package forward

import (
	"hash/maphash"
	"net/netip"

	"golang.org/x/time/rate"
)

// How many echo requests of one host are carried on. Each costs three system
// calls, as much as a segment of 64 KB, so a flood of them would take the time
// of every other flow. No measurement of a path needs as many.
const (
	echoesPerSecond = 10_000
	echoBurst       = 1000
	echoBuckets     = 64 // hosts that share a bucket by their hash share its rate
)

// echoLimit bounds the echo requests of each host.
type echoLimit struct {
	seed  maphash.Seed
	hosts [echoBuckets]*rate.Limiter
}

func newEchoLimit() *echoLimit {
	l := &echoLimit{seed: maphash.MakeSeed()}
	for i := range l.hosts {
		l.hosts[i] = rate.NewLimiter(echoesPerSecond, echoBurst)
	}
	return l
}

func (l *echoLimit) allow(src netip.Addr) bool {
	return l.hosts[maphash.Comparable(l.seed, src)%echoBuckets].Allow()
}
