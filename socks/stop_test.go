package socks_test

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"netstackd/socks"
	"netstackd/socks/wire"
)

// TestServerStop ends the server: handshakes and dials go, flows stay.
func TestServerStop(t *testing.T) {
	target := echo(t)
	dead := newStuck()
	d := dialFunc{local, func(ctx context.Context, network, address string) (net.Conn, error) {
		if address == target {
			return local.DialContext(ctx, network, address)
		}
		return dead.DialContext(ctx, network, address)
	}}
	p := start(t, d, socks.Config{DialTimeout: time.Minute, HandshakeTimeout: time.Minute})
	flowing := dial(t, p.addr)
	socks5(t, flowing, wire.Connect, target, wire.ReplySucceeded)
	greeting, dialing, web := dial(t, p.addr), dial(t, p.addr), dial(t, p.addr)
	send(t, greeting, "\x05")
	send(t, dialing, "\x05\x01\x00"+request5(t, wire.Connect, "10.0.0.7:80"))
	send(t, web, "GET http://x/ HTTP/1.1\r\n")
	<-dead.begun
	want(t, dialing, "\x05\x00")
	eventually(t, "the others have arrived", func() bool { return p.Stats().Handshakes == 2 })
	p.stop()
	if r := reply5(t, dialing); r.Reply != wire.ReplyGeneralFailure {
		t.Errorf("dial in flight: %v", r.Reply)
	}
	for _, c := range []net.Conn{greeting, web} {
		if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Error(err)
		}
	}
	if _, err := net.Dial("tcp", p.addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a new client: %v", err)
	}
	send(t, flowing, "still here")
	want(t, flowing, "still here")
}

func TestServerKill(t *testing.T) {
	target := echo(t)
	dead := newStuck()
	d := dialFunc{local, func(ctx context.Context, network, address string) (net.Conn, error) {
		if address == target {
			return local.DialContext(ctx, network, address)
		}
		return dead.DialContext(ctx, network, address)
	}}
	p := start(t, d, socks.Config{DialTimeout: time.Minute})
	c := dial(t, p.addr)
	socks5(t, c, wire.Connect, target, wire.ReplySucceeded)
	p.flows.Kill(p.flows.Flows()[0].ID)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset", err)
	}
	eventually(t, "the flow ends", func() bool { return p.flows.Len() == 0 })
	c = dial(t, p.addr)
	send(t, c, "\x05\x01\x00"+request5(t, wire.Connect, "10.0.0.7:80"))
	<-dead.begun
	p.flows.Kill(p.flows.Flows()[0].ID)
	want(t, c, "\x05\x00")
	if r := reply5(t, c); r.Reply != wire.ReplyGeneralFailure {
		t.Errorf("a killed dial: %v", r.Reply)
	}
}

// failing is a listener whose Accept fails in a given way first.
type failing struct {
	net.Listener
	mu   sync.Mutex
	errs []error
}

func (l *failing) Accept() (net.Conn, error) {
	l.mu.Lock()
	if len(l.errs) > 0 {
		err := l.errs[0]
		l.errs = l.errs[1:]
		l.mu.Unlock()
		return nil, err
	}
	l.mu.Unlock()
	return l.Listener.Accept()
}

func TestServerAcceptFails(t *testing.T) {
	listen := func(errs ...error) *failing {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return &failing{Listener: ln, errs: errs}
	}
	s := socks.NewServer(socks.Config{})
	ln := listen(&net.OpError{Err: syscall.EMFILE}, syscall.ECONNABORTED, syscall.ENFILE)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Serve(ctx, ln) }()
	c := dial(t, ln.Addr().String())
	send(t, c, "\x05\x01\x00")
	want(t, c, "\x05\x00")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	ln = listen(syscall.EINVAL)
	if err := s.Serve(t.Context(), ln); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("Serve: %v, want EINVAL", err)
	}
}
