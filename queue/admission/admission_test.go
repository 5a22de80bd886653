package admission_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"netstackd/queue/admission"
)

var (
	alice = netip.MustParseAddr("10.0.0.1")
	bob   = netip.MustParseAddr("10.0.0.2")
)

// visitors enter a Limiter under a number each.
type visitors struct {
	*admission.Limiter
	evicted []int
}

func (v *visitors) enter(who netip.Addr, id int) *admission.Place {
	p, ok := v.Enter(who, func() { v.evicted = append(v.evicted, id) })
	if ok != (p != nil) {
		panic("a place and none")
	}
	return p
}

func (v *visitors) wantEvicted(t *testing.T, ids ...int) {
	t.Helper()
	if !slices.Equal(v.evicted, ids) {
		t.Fatalf("evicted %v, want %v", v.evicted, ids)
	}
}

func TestLimiter(t *testing.T) {
	v := visitors{Limiter: admission.New(admission.Config{Total: 3, PerSource: 2})}
	first, second := v.enter(alice, 1), v.enter(alice, 2)
	v.enter(bob, 3)
	v.wantEvicted(t)
	v.enter(netip.MustParseAddr("::ffff:10.0.0.1"), 4) // alice has all of hers
	v.wantEvicted(t, 1)
	v.enter(bob, 5) // all are taken: the oldest of all gives way
	v.wantEvicted(t, 1, 2)
	first.Leave() // of holders that were evicted: counts for nothing
	second.Leave()
	if s := v.Stats(); s != (admission.Stats{Held: 3, Evicted: 2}) {
		t.Fatalf("stats %+v", s)
	}
	for v.EvictOldest(0) {
	}
	v.wantEvicted(t, 1, 2, 3, 4, 5)
	var none *admission.Place
	none.Leave()
}

func TestLimiterPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := visitors{Limiter: admission.New(admission.Config{Total: 2, Patience: time.Second})}
		v.enter(alice, 1)
		time.Sleep(time.Second - 1)
		v.enter(alice, 2)
		if v.enter(bob, 3) != nil {
			t.Fatal("there was room for a third")
		}
		if v.EvictOldest(time.Second) {
			t.Fatal("a young holder was evicted")
		}
		time.Sleep(time.Nanosecond)
		if v.enter(bob, 4) == nil {
			t.Fatal("refused, with a holder that is old enough to give way")
		}
		v.wantEvicted(t, 1)
		if s := v.Stats(); s != (admission.Stats{Held: 2, Refused: 1, Evicted: 1}) {
			t.Fatalf("stats %+v", s)
		}
	})
}

func TestPlaceOnEvict(t *testing.T) {
	v := visitors{Limiter: admission.New(admission.Config{Total: 1})}
	p := v.enter(alice, 1)
	if !p.OnEvict(func() { v.evicted = append(v.evicted, 10) }) {
		t.Error("a place that is held counts as lost")
	}
	v.enter(bob, 2)
	v.wantEvicted(t, 10)
	if p.OnEvict(nil) {
		t.Error("a place that is lost counts as held")
	}
	var none *admission.Place
	if none.OnEvict(func() {}) {
		t.Error("no place counts as held")
	}
}

// A holder without anything to call gives way like any other.
func TestPlaceWithoutEvict(t *testing.T) {
	v := visitors{Limiter: admission.New(admission.Config{Total: 1})}
	p := v.enter(alice, 1)
	p.OnEvict(nil)
	if q, ok := v.Enter(bob, nil); !ok || p.Leave() {
		t.Error("the first holder keeps its place")
	} else if v.enter(alice, 2); q.Leave() {
		t.Error("the second holder keeps its place")
	}
	v.wantEvicted(t)
}

// TestLimiterUnlimited has no limit in the zero Config.
func TestLimiterUnlimited(t *testing.T) {
	v := visitors{Limiter: admission.New(admission.Config{})}
	for i := range 1000 {
		v.enter(alice, i)
	}
	v.wantEvicted(t)
}

// TestLimiterRandom keeps a Limiter busy and counts.
func TestLimiterRandom(t *testing.T) {
	l := admission.New(admission.Config{Total: 20, PerSource: 8})
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(worker)))
			var held []*admission.Place
			for range 2000 {
				if rng.IntN(2) == 0 || len(held) == 0 {
					p, ok := l.Enter(netip.AddrFrom4([4]byte{10, 0, 0, byte(rng.IntN(4))}), func() {})
					if !ok {
						t.Error("refused without patience")
					}
					held = append(held, p)
				} else {
					held[0].Leave()
					held = held[1:]
				}
				if n := l.Stats().Held; n > 20 || n < 0 {
					t.Errorf("%d places are held", n)
				}
			}
			for _, p := range held {
				p.Leave()
			}
		})
	}
	wg.Wait()
	if n := l.Stats().Held; n != 0 {
		t.Errorf("%d places are still held", n)
	}
}
