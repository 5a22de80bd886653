//go:build linux

package relay_test

import (
	"io"
	"math/rand/v2"
	"sync"
	"testing"
)

// Flows that end in every wrong way, from either side and at any moment, all
// end, and leave nothing behind (goleak checks the rest).
func TestChaos(t *testing.T) {
	r := newRig(t)
	flows := 300
	if raceEnabled {
		flows = 100
	}
	var wg sync.WaitGroup
	for i := range flows {
		rng := rand.New(rand.NewPCG(uint64(i), 3))
		client, server, f := r.join(kinds[i%len(kinds)])
		cut := rng.IntN(200 << 10)
		victim, other := client, server
		if rng.IntN(2) == 0 {
			victim, other = server, client
		}
		end := rng.IntN(5)
		wg.Go(func() { // talks and listens for as long as it can
			var both sync.WaitGroup
			both.Go(func() { io.Copy(io.Discard, struct{ io.Reader }{other}) })
			buf := make([]byte, 10000)
			for n := 0; n < 1<<20; n += len(buf) {
				if _, err := other.Write(buf); err != nil {
					break
				}
			}
			other.CloseWrite()
			both.Wait()
			other.Close()
		})
		wg.Go(func() {
			var both sync.WaitGroup
			both.Go(func() { io.CopyN(io.Discard, victim, int64(cut)) })
			victim.Write(make([]byte, cut))
			switch end {
			case 0:
				reset(victim)
			case 1:
				victim.Close() // with unread data: a reset as well
			case 2:
				victim.CloseWrite()
				both.Wait()
				reset(victim)
			case 3:
				r.flows.Kill(f.ID())
			case 4:
				victim.CloseWrite()
				io.Copy(io.Discard, struct{ io.Reader }{victim})
				victim.Close()
			}
			both.Wait()
			victim.Close()
		})
	}
	wg.Wait()
	r.wait()
	if st := r.relay.Stats(); st.Open != 0 || r.flows.Len() != 0 {
		t.Errorf("%+v, %d flows", st, r.flows.Len())
	}
}
