package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"netstackd/bench/testbed"
)

// path is one way from a client to the servers on B.
type path struct {
	name  string
	from  *host
	local netip.Addr // of the client; invalid leaves it to the kernel
	// locals, if any, are the client's addresses in turn, in place of local.
	locals []netip.Addr
	socks  netip.AddrPort // of a proxy; invalid is none
	// direct, if valid, is the one destination there is.
	direct netip.AddrPort
	ipv6   bool
	named  bool // the proxy gets a name
}

// dest is the i-th destination: each is another address.
func (p path) dest(i int, port uint16) netip.AddrPort {
	if p.direct.IsValid() {
		return p.direct
	}
	hi, lo := byte(i>>8), byte(i)
	if p.ipv6 {
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x78, 13: 1, 14: hi, 15: lo}), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 78, hi, lo}), port)
}

// connect makes a connection to the i-th destination. ctx bounds all of it.
func (p path) connect(ctx context.Context, i int, port uint16) (*net.TCPConn, error) {
	to := p.dest(i, port)
	first := to
	if p.socks.IsValid() {
		first = p.socks
	}
	local := p.local
	if len(p.locals) > 0 {
		local = p.locals[i%len(p.locals)]
	}
	c, err := p.from.dial(ctx, local, first)
	if err != nil || !p.socks.IsValid() {
		return c, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	if p.named {
		err = testbed.HandshakeName(c, fmt.Sprintf("n%d.example", i), port)
	} else {
		_, err = testbed.Handshake(c, testbed.SOCKSConnect, to)
	}
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("SOCKS: %w", err)
	}
	return c, nil
}

// patternLen is a prime, so that no power of two of bytes that are lost leaves
// the rest in place.
const patternLen = 1048573

// pattern is what flows carry: random bytes, repeated.
var pattern = sync.OnceValue(func() []byte {
	b := make([]byte, patternLen)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
})

// at is the pattern from a flow's offset on, at most n bytes.
func at(offset int64, n int) []byte {
	from := int(offset % patternLen)
	return pattern()[from:min(from+n, patternLen)]
}

// attempt is one new connection of a stream.
type attempt struct {
	path        string
	began       time.Time
	took        time.Duration
	err         error
	ended, lies bool // lies: what came back was not what was sent
}

// stream opens a new connection on each path in turn, exchanges 128 bytes
// over it, and closes it.
type stream struct {
	paths   []path
	timeout time.Duration

	mu       sync.Mutex
	attempts []*attempt
}

// streamEvery is the pace of a stream.
const streamEvery = 40 * time.Millisecond

// run opens connections until ctx ends, and waits for the last of them.
func (s *stream) run(ctx context.Context) {
	var tries sync.WaitGroup
	defer tries.Wait()
	tick := time.NewTicker(streamEvery)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p := s.paths[i%len(s.paths)]
		a := &attempt{path: p.name, began: time.Now()}
		s.mu.Lock()
		s.attempts = append(s.attempts, a)
		s.mu.Unlock()
		tries.Go(func() {
			lies, err := s.try(p, i)
			s.mu.Lock()
			defer s.mu.Unlock()
			a.ended, a.lies, a.err, a.took = true, lies, err, time.Since(a.began)
		})
	}
}

// try is one connection. It has its own bound, so that the end of a row
// doesn't look like a failure.
func (s *stream) try(p path, i int) (lies bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), s.timeout)
	defer cancel()
	c, err := p.connect(ctx, 256+i%60_000, portEcho)
	if err != nil {
		return false, err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	_ = c.SetDeadline(deadline)
	want := at(int64(i), 128)
	if _, err := c.Write(want); err != nil {
		return false, err
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil {
		return false, err
	}
	if !bytes.Equal(got, want) {
		return true, errors.New("other bytes came back")
	}
	return false, nil
}

// tally is what came of the attempts of some time.
type tally struct {
	tried, failed, pending, lies int
	worst                        time.Duration
	first                        error // of the failures, with its path
}

func (t tally) share() float64 {
	if t.tried == 0 {
		return 0
	}
	return 1 - float64(t.failed)/float64(t.tried)
}

// between counts the attempts that began in [from, to).
func (s *stream) between(from, to time.Time) (t tally) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.attempts {
		if a.began.Before(from) || !a.began.Before(to) {
			continue
		}
		t.tried++
		switch {
		case !a.ended:
			t.pending++
		case a.err != nil:
			t.failed++
			if t.first == nil {
				t.first = fmt.Errorf("%s, after %v: %w", a.path, a.took.Round(time.Millisecond), a.err)
			}
		default:
			t.worst = max(t.worst, a.took)
		}
		if a.lies {
			t.lies++
		}
	}
	return t
}

// provenBy is how many attempts in a row must succeed to prove that all is well.
const provenBy = 25

// recovered returns how long after since the first of provenBy attempts in a
// row began that all succeeded.
func (s *stream) recovered(since time.Time) (time.Duration, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var first *attempt
	row := 0
	for _, a := range s.attempts {
		switch {
		case a.began.Before(since):
		case !a.ended:
			return 0, false
		case a.err != nil:
			first, row = nil, 0
		default:
			if first == nil {
				first = a
			}
			if row++; row == provenBy {
				return max(0, first.began.Sub(since)-streamEvery), true
			}
		}
	}
	return 0, false
}

// flow is a long connection to the echo server, on which every byte that comes
// back is compared with what was sent.
type flow struct {
	path path
	pace int64 // bytes a second, 0 = as fast as it goes

	local     atomic.Pointer[net.TCPAddr] // the client's end, once it is connected
	sent, got atomic.Int64
	wrong     error // bytes that are not what they should be, or a clean end without them
	broken    error // it ended early, and said so
}

// chunk is what a flow writes at once.
const chunk = 32 << 10

// flowEndsWithin is how long what is under way may take to arrive at the end.
const flowEndsWithin = 15 * time.Second

// run carries bytes until ctx ends, then ends the flow in order, within flowEndsWithin.
func (f *flow) run(ctx context.Context) {
	dialing, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	c, err := f.path.connect(dialing, 1, portEcho)
	cancel()
	if err != nil {
		f.broken = err
		return
	}
	defer c.Close()
	f.local.Store(c.LocalAddr().(*net.TCPAddr))
	sending, stop := context.WithCancel(ctx)
	defer stop()
	writer := make(chan error, 1)
	go func() { writer <- f.write(sending, c) }()
	bound := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Now().Add(flowEndsWithin)) })
	ended := f.read(c)
	stop()
	bound()
	_ = c.SetDeadline(time.Unix(1, 0)) // wakes the writer
	err = <-writer
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil
	}
	// The kernel reports a reset once: a writer that gets it leaves the reader a
	// plain end.
	if got, sent := f.got.Load(), f.sent.Load(); ended && got != sent {
		if err != nil {
			f.broken = fmt.Errorf("%s, after %d of %d bytes: %w", f.path.name, got, sent, err)
		} else {
			f.wrong = fmt.Errorf("%s: ended in order after %d of %d bytes", f.path.name, got, sent)
		}
	}
}

func (f *flow) write(ctx context.Context, c *net.TCPConn) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); ctx.Err() == nil; {
		if f.pace > 0 && float64(f.sent.Load()) > float64(f.pace)*time.Since(began).Seconds() {
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
			continue
		}
		n, err := c.Write(at(f.sent.Load(), chunk))
		f.sent.Add(int64(n))
		if err != nil {
			return err
		}
	}
	return c.CloseWrite()
}

// read compares what comes back, and reports whether it ended in order.
func (f *flow) read(c *net.TCPConn) bool {
	buf := make([]byte, 4*chunk)
	for {
		n, err := c.Read(buf)
		for b := buf[:n]; len(b) > 0; {
			want := at(f.got.Load(), len(b))
			if !bytes.Equal(b[:len(want)], want) {
				f.wrong = fmt.Errorf("%s: the %d bytes at offset %d are not those that were sent", f.path.name, len(want), f.got.Load())
				return false
			}
			f.got.Add(int64(len(want)))
			b = b[len(want):]
		}
		if err == io.EOF {
			return true
		}
		if err != nil {
			f.broken = fmt.Errorf("%s, after %d of %d bytes: %w", f.path.name, f.got.Load(), f.sent.Load(), err)
			return false
		}
	}
}
