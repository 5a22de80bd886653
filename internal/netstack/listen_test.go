package netstack_test

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"netstackd/internal/netstack"
	"netstackd/tun/tuntest"
)

// However many wait to accept, each connection is accepted at once.
func TestListenerConcurrentAccept(t *testing.T) {
	app, own := pair(t, tuntest.Config{}, netstack.Config{})
	l := listen(t, own, netip.AddrPortFrom(ownV6.Addr(), 80))
	const n = 50
	accepted, dialed := make(chan net.Conn, n), make(chan net.Conn, n)
	for range n {
		go func() {
			c, err := l.Accept()
			if err != nil {
				t.Error(err)
			}
			accepted <- c
		}()
	}
	for range n {
		go func() {
			c, err := app.DialContext(t.Context(), nil, "tcp", l.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			dialed <- c
		}()
	}
	for range n {
		defer recv(t, accepted).Close()
		defer recv(t, dialed).Close()
	}
}

func TestListenerClose(t *testing.T) {
	app, own := pair(t, tuntest.Config{}, netstack.Config{})
	at := netip.AddrPortFrom(ownV4.Addr(), 80)
	l := listen(t, own, at)
	done := make(chan error, 3)
	for range cap(done) {
		go func() {
			_, err := l.Accept()
			done <- err
		}()
	}
	for range 2 {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for range cap(done) {
		isErr(t, recv(t, done), net.ErrClosed)
	}
	_, err := app.DialContext(t.Context(), nil, "tcp", at.String())
	isErr(t, err, syscall.ECONNREFUSED)

	// A connection that was not accepted is reset.
	l = listen(t, own, at)
	c := dial(t, app, at)
	l.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("read: %v", err)
	}
	// A port in use is one.
	l = listen(t, own, at)
	_, err = own.ListenTCP(at)
	isErr(t, err, syscall.EADDRINUSE)
}
