//go:build linux

package relay_test

import (
	"fmt"
	"hash"
	"hash/crc64"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
)

// Many flows at once, with random sizes, random stalls of their readers and
// half-closes in random order. A lost wake-up or byte shows as a time-out or a
// wrong sum.
func TestStress(t *testing.T) {
	r := newRig(t)
	flows := 60
	turns := &turns{}
	var wg sync.WaitGroup
	var up, down int64
	for i := range flows {
		rng := rand.New(rand.NewPCG(uint64(i), 7))
		client, server, _ := r.join(kinds[i%len(kinds)])
		toServer, toClient := newStream(rng), newStream(rng)
		up += int64(toServer.size)
		down += int64(toClient.size)
		// Some answer only when they have heard everything.
		switch rng.IntN(3) {
		case 0:
			toClient.after = toServer.ended
		case 1:
			toServer.after = toClient.ended
		}
		for _, d := range []struct {
			s        *stream
			from, to peer
		}{{toServer, client, server}, {toClient, server, client}} {
			wg.Go(func() { d.s.send(turns, d.from) })
			wg.Go(func() { d.s.receive(turns, d.to) })
		}
		wg.Go(func() {
			for _, s := range []*stream{toServer, toClient} {
				<-s.ended
				if s.err != nil {
					t.Errorf("flow %d (%s), %d bytes: %v", i, kinds[i%len(kinds)], s.size, s.err)
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.Logf("relay %+v\napp's stack %+v\nour stack %+v", r.relay.Stats(), r.app.Stats(), r.ours.Stats())
		return
	}
	r.wait()
	if st := r.flows.Stats(); st.Up != up || st.Down != down {
		t.Errorf("counted %d up and %d down, want %d and %d", st.Up, st.Down, up, down)
	}
}

// stream is one direction of a flow under stress.
type stream struct {
	seed  uint64
	size  int
	after <-chan struct{} // what to wait for before the first byte
	sent  chan hash.Hash64
	ended chan struct{} // closed when the receiver has met FIN
	err   error         // set before ended is closed
}

func newStream(rng *rand.Rand) *stream {
	size := 0
	switch rng.IntN(4) {
	case 0:
		size = rng.IntN(10)
	case 1:
		size = rng.IntN(5000)
	case 2:
		size = rng.IntN(300 << 10)
	case 3:
		size = rng.IntN(3 << 20)
	}
	return &stream{seed: rng.Uint64(), size: size, sent: make(chan hash.Hash64, 1), ended: make(chan struct{})}
}

var crcTable = crc64.MakeTable(crc64.ECMA)

func (s *stream) send(turns *turns, c peer) {
	if s.after != nil {
		<-s.after
	}
	turns.enter()
	rng := rand.New(rand.NewPCG(s.seed, 1))
	sum := crc64.New(crcTable)
	buf := make([]byte, 200<<10)
	for i := range buf {
		buf[i] = byte(rng.Uint32())
	}
	for left := s.size; left > 0; {
		off := rng.IntN(1000)
		b := buf[off:min(len(buf), off+1+size(rng))]
		b = b[:min(len(b), left)]
		sum.Write(b)
		if _, err := c.Write(b); err != nil {
			break // the receiver says what is missing
		}
		left -= len(b)
	}
	s.sent <- sum
	c.CloseWrite()
}

// size is small or large, seldom in between.
func size(rng *rand.Rand) int {
	if rng.IntN(3) == 0 {
		return rng.IntN(180 << 10)
	}
	return rng.IntN(3000)
}

func (s *stream) receive(turns *turns, c peer) {
	defer close(s.ended)
	defer turns.leave()
	rng := rand.New(rand.NewPCG(s.seed, 2))
	sum := crc64.New(crcTable)
	buf := make([]byte, 200<<10)
	for got := 0; ; {
		n, err := c.Read(buf[:1+size(rng)])
		sum.Write(buf[:n])
		got += n
		if err != nil {
			if err != io.EOF || got != s.size || sum.Sum64() != (<-s.sent).Sum64() {
				s.err = fmt.Errorf("%d bytes arrived, then %w", got, err)
			}
			return
		}
		if rng.IntN(20) == 0 {
			turns.stall()
		} else {
			turns.progress(rng)
		}
	}
}

// turns stalls readers, each until the others have made progress or
// cannot: it stands in for time.
type turns struct {
	mu      sync.Mutex
	active  int // streams under way
	waiting []chan struct{}
}

func (t *turns) enter() {
	t.mu.Lock()
	t.active++
	t.mu.Unlock()
}

func (t *turns) leave() {
	t.mu.Lock()
	t.active--
	t.wakeIfStuck()
	t.mu.Unlock()
}

func (t *turns) stall() {
	ch := make(chan struct{})
	t.mu.Lock()
	t.waiting = append(t.waiting, ch)
	t.wakeIfStuck()
	t.mu.Unlock()
	<-ch
}

func (t *turns) progress(rng *rand.Rand) {
	t.mu.Lock()
	if rng.IntN(30) == 0 {
		t.wake()
	}
	t.mu.Unlock()
}

func (t *turns) wakeIfStuck() {
	if len(t.waiting) >= t.active {
		t.wake()
	}
}

func (t *turns) wake() {
	if len(t.waiting) > 0 {
		close(t.waiting[0])
		t.waiting = t.waiting[1:]
	}
}
