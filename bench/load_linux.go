package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"netstackd/bench/testbed"
	"netstackd/internal/sys"

	"golang.org/x/sys/unix"
)

// Load is what a client agent is told to do until it is told to stop.
type Load struct {
	Kind  Kind
	Conns int            // at once
	Dest  netip.Addr     // the server, as the path knows it
	Dests int            // how many addresses from Dest on to use, in turn; 0 is 1
	SOCKS netip.AddrPort // of a proxy; the zero value is none
}

// Kind is a kind of load.
type Kind string

// The kinds.
const (
	Upload   Kind = "up"      // bytes to the server
	Download Kind = "down"    // bytes from it
	Request  Kind = "request" // request and response, on one connection each
	Connect  Kind = "connect" // connect, request, response, close
	Hold     Kind = "hold"    // connections that say one thing and are silent then
	HoldUDP  Kind = "holdudp" // the same with UDP, a socket each
	Echo     Kind = "echo"    // datagrams, each sent back; udpInFlight for each socket
	Single   Kind = "single"  // the same, a train's worth of them in flight
	Train    Kind = "train"   // the same, sent and received as trains
)

// Counts are what a load has done so far.
type Counts struct {
	Bytes  int64 // of payload that arrived at this end
	Done   int64 // requests, connections or datagrams that were answered
	Lost   int64 // datagrams that were not
	Errors int64
	Error  string        // the first
	P50    time.Duration // of the requests
	P99    time.Duration
}

// load is one that runs.
type load struct {
	Load
	bytes, done, lost atomic.Int64
	stopping          atomic.Bool
	threads           sync.WaitGroup

	mu        sync.Mutex
	fds       map[int]struct{} // open sockets, to be woken
	errors    int64
	first     error
	latencies []time.Duration
}

// startLoad returns once the load is under way: its first connection works,
// or, of those that are held, all.
func startLoad(spec Load) (*load, error) {
	l := &load{Load: spec, fds: map[int]struct{}{}}
	l.Dests = max(l.Dests, 1)
	run := map[Kind]func(i int) error{
		Upload: l.upload, Download: l.download, Request: l.request, Connect: l.connect,
		Echo: l.echo, Single: l.echo, Train: l.echo,
	}[spec.Kind]
	if spec.Kind == Hold || spec.Kind == HoldUDP {
		if err := l.hold(); err != nil {
			l.stop()
			return nil, err
		}
		return l, nil
	}
	if run == nil {
		return nil, fmt.Errorf("unknown load %q", spec.Kind)
	}
	for i := range l.Conns {
		l.threads.Go(func() {
			if err := run(i); err != nil && !l.stopping.Load() {
				l.fail(err)
			}
		})
	}
	return l, nil
}

// stop ends the load and waits for its threads.
func (l *load) stop() Counts {
	l.stopping.Store(true)
	l.mu.Lock()
	for fd := range l.fds {
		_ = unix.Shutdown(fd, unix.SHUT_RDWR) // wakes who waits on it, UDP too
	}
	l.mu.Unlock()
	l.threads.Wait()
	counts := l.counts()
	l.mu.Lock()
	defer l.mu.Unlock()
	for fd := range l.fds { // those that are held
		unix.Close(fd)
	}
	clear(l.fds)
	return counts
}

func (l *load) counts() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := Counts{Bytes: l.bytes.Load(), Done: l.done.Load(), Lost: l.lost.Load(), Errors: l.errors}
	if l.first != nil {
		c.Error = l.first.Error()
	}
	if n := len(l.latencies); n > 0 {
		slices.Sort(l.latencies)
		c.P50, c.P99 = l.latencies[n/2], l.latencies[n*99/100]
	}
	return c
}

func (l *load) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errors++
	if l.first == nil {
		l.first = err
	}
}

var errStopped = errors.New("stopped")

// own notes an open socket, so that stop finds it.
func (l *load) own(fd int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopping.Load() {
		unix.Close(fd)
		return errStopped
	}
	l.fds[fd] = struct{}{}
	return nil
}

func (l *load) close(fd int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.fds[fd]; ok {
		delete(l.fds, fd)
		unix.Close(fd)
	}
}

// reset closes a connection that may have megabytes under way, so that they
// don't arrive in the next measurement.
func (l *load) reset(fd int) {
	_ = sys.ResetOnClose(fd)
	l.close(fd)
}

// dial connects to the i-th destination, through the proxy if there is one.
func (l *load) dial(i int, port uint16) (int, error) {
	to := l.dest(i, port)
	if !l.SOCKS.IsValid() {
		return l.connectTo(to)
	}
	fd, err := l.connectTo(l.SOCKS)
	if err != nil {
		return -1, err
	}
	if _, err := testbed.Handshake(stream(fd), testbed.SOCKSConnect, to); err != nil {
		l.close(fd)
		return -1, fmt.Errorf("SOCKS server %v: %w", l.SOCKS, err)
	}
	return fd, nil
}

// connectTo connects a socket that stop finds also while it does.
func (l *load) connectTo(a netip.AddrPort) (int, error) {
	fd, err := newTCP(ioTimeout)
	if err != nil {
		return -1, err
	}
	if err := l.own(fd); err != nil {
		return -1, err
	}
	if err := retry(func() error { return unix.Connect(fd, sockaddr(a)) }); err != nil {
		l.close(fd)
		return -1, fmt.Errorf("connect to %v: %w", a, err)
	}
	return fd, nil
}

// dest is the i-th destination: Dest and what follows it.
func (l *load) dest(i int, port uint16) netip.AddrPort {
	a := l.Dest.As4()
	n := uint32(a[2])<<8 + uint32(a[3]) + uint32(i%l.Dests)
	a[2], a[3] = byte(n>>8), byte(n)
	return netip.AddrPortFrom(netip.AddrFrom4(a), port)
}
