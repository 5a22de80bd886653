package socks_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"netstackd/socks"
	"netstackd/socks/wire"
)

// startAlone runs a server that has nothing of the daemon's: its own relay, no
// registry, the host's network unless cfg says otherwise.
func startAlone(t *testing.T, cfg socks.Config) (addr string, stop func() error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- socks.NewServer(cfg).Serve(ctx, ln) }()
	stop = sync.OnceValue(func() error { cancel(); return <-served })
	t.Cleanup(func() { stop() })
	return ln.Addr().String(), stop
}

// A server without any configuration serves TCP both ways with half-close, and UDP.
func TestServerZeroConfig(t *testing.T) {
	addr, stop := startAlone(t, socks.Config{})
	whole := serveTCP(t, "127.0.0.1:0", func(c net.Conn) { // answers at the end of the request
		b, _ := io.ReadAll(c)
		c.Write(b)
	})
	data := strings.Repeat("data", 1<<18)
	for _, early := range []string{"", "early "} {
		c := dial(t, addr)
		send(t, c, "\x05\x01\x00")
		want(t, c, "\x05\x00")
		send(t, c, request5(t, wire.Connect, whole)+early)
		reply5(t, c)
		go func() {
			io.WriteString(c, data)
			c.CloseWrite()
		}()
		want(t, c, early+data)
		wantEOF(t, c)
	}
	_, udp := udpEcho(t, "127.0.0.1:0")
	client := socks.NewClient(addr, nil, socks.ClientConfig{})
	pc, err := client.ListenPacket(t.Context(), "udp", "")
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, pc, net.UDPAddrFromAddrPort(udp), udp, []byte("datagram"))
	pc.Close()
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// A reset of either end resets the other.
func TestServerRelayReset(t *testing.T) {
	addr, _ := startAlone(t, socks.Config{})
	accepted := make(chan *net.TCPConn, 1)
	hold := make(chan struct{})
	defer close(hold)
	target := serveTCP(t, "127.0.0.1:0", func(c net.Conn) {
		accepted <- c.(*net.TCPConn)
		<-hold
	})
	for _, end := range []string{"client", "destination"} {
		c := dial(t, addr)
		socks5(t, c, wire.Connect, target, wire.ReplySucceeded)
		reset, other := c, <-accepted
		if end == "destination" {
			reset, other = other, reset
		}
		reset.SetLinger(0)
		reset.Close()
		other.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := other.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("after a reset by the %s: %v, want a reset", end, err)
		}
	}
}

// A connection outlives the end of the context by DrainTimeout, and Serve waits
// for it.
func TestServerRelayDrain(t *testing.T) {
	addr, stop := startAlone(t, socks.Config{DrainTimeout: 2 * time.Second})
	c := dial(t, addr)
	socks5(t, c, wire.Connect, echo(t), wire.ReplySucceeded)
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	for { // until the listener is closed, after the context has ended
		late, err := net.Dial("tcp", addr)
		if err != nil {
			break
		}
		late.Close()
	}
	if _, err := c.Write([]byte("still here")); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 10)); err != nil {
		t.Errorf("before the time is up: %v", err)
	}
	select {
	case err := <-stopped:
		t.Fatalf("Serve has returned, and a connection lives: %v", err)
	default:
	}
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after Serve has returned: %v, want a reset", err)
	}
}

// countedFlow is the entry of a registry that a program outside could have.
type countedFlow struct {
	mu     sync.Mutex
	kill   func()
	closed chan struct{}
	once   sync.Once

	up, down atomic.Int64
}

func (f *countedFlow) Establish() bool { return true }
func (f *countedFlow) Evicted() bool   { return false }
func (f *countedFlow) AddUp(n int64)   { f.up.Add(n) }
func (f *countedFlow) AddDown(n int64) { f.down.Add(n) }
func (f *countedFlow) Close()          { f.once.Do(func() { close(f.closed) }) }
func (f *countedFlow) OnKill(kill func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kill = kill
}

// A registry counts a connection's bytes and can kill it, and a registry that is
// full refuses it.
func TestServerOpen(t *testing.T) {
	flows := make(chan *countedFlow, 1)
	full := errors.New("full")
	addr, _ := startAlone(t, socks.Config{Open: func(r *socks.Request, kill func()) (socks.Flow, error) {
		f := &countedFlow{kill: kill, closed: make(chan struct{})}
		select {
		case flows <- f:
			return f, nil
		default:
			return nil, full
		}
	}})
	target := echo(t)
	c := dial(t, addr)
	socks5(t, c, wire.Connect, target, wire.ReplySucceeded)
	socks5(t, dial(t, addr), wire.Connect, target, wire.ReplyGeneralFailure)
	f := <-flows
	send(t, c, "echo")
	want(t, c, "echo")
	c.CloseWrite()
	wantEOF(t, c)
	<-f.closed
	if up, down := f.up.Load(), f.down.Load(); up != 4 || down != 4 {
		t.Errorf("%d bytes up, %d down; want 4", up, down)
	}
	c = dial(t, addr)
	socks5(t, c, wire.Connect, target, wire.ReplySucceeded)
	f = <-flows
	send(t, c, "echo")
	want(t, c, "echo") // the relay has it
	f.mu.Lock()
	f.kill()
	f.mu.Unlock()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after a kill: %v, want a reset", err)
	}
	<-f.closed
}
