package socks_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"netstackd/socks"
)

var (
	alice = netip.MustParseAddr("10.0.0.1")
	bob   = netip.MustParseAddr("10.0.0.2")
)

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := socks.NewGate(3, 2, time.Second)
		var evicted []int
		enter := func(who netip.Addr, id int) func() {
			return g.Enter(who, func() { evicted = append(evicted, id) })
		}
		leave1, leave2 := enter(alice, 1), enter(alice, 2)
		if leave1 == nil || leave2 == nil {
			t.Fatal("refused below the limit")
		}
		if enter(alice, 3) != nil {
			t.Fatal("third of a client taken, while the others are new")
		}
		leave4 := enter(bob, 4)
		if leave4 == nil || enter(bob, 5) != nil {
			t.Fatal("the total is not 3")
		}
		time.Sleep(time.Second)
		leave6 := enter(bob, 6) // the oldest of all gives way
		if leave6 == nil || !slices.Equal(evicted, []int{1}) {
			t.Fatalf("evicted %v", evicted)
		}
		leave7 := enter(bob, 7) // bob's own oldest gives way, not alice's older one
		if leave7 == nil || !slices.Equal(evicted, []int{1, 4}) {
			t.Fatalf("evicted %v", evicted)
		}
		leave1() // of one that was evicted: counts for nothing
		leave2()
		leave2()
		if g.Now() != 2 {
			t.Fatalf("%d inside, want 2", g.Now())
		}
		for g.Shed() {
		}
		if !slices.Equal(evicted, []int{1, 4, 6, 7}) {
			t.Fatalf("evicted %v", evicted)
		}
	})
}

// TestGateRandom keeps a gate busy and counts.
func TestGateRandom(t *testing.T) {
	g := socks.NewGate(20, 8, 0)
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(worker)))
			var leave []func()
			for range 2000 {
				if rng.IntN(2) == 0 || len(leave) == 0 {
					if l := g.Enter(netip.AddrFrom4([4]byte{10, 0, 0, byte(rng.IntN(4))}), func() {}); l != nil {
						leave = append(leave, l)
					}
				} else {
					leave[0]()
					leave = leave[1:]
				}
				if n := g.Now(); n > 20 || n < 0 {
					t.Errorf("%d inside", n)
				}
			}
			for _, l := range leave {
				l()
			}
		})
	}
	wg.Wait()
	if n := g.Now(); n != 0 {
		t.Errorf("%d left inside", n)
	}
}
