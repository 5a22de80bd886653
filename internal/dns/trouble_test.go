package dns_test

import (
	"context"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"netstackd/internal/dns"

	"golang.org/x/net/dns/dnsmessage"
)

// A cut answer is passed on where TCP can't bring the whole.
func TestServerTruncatedOnly(t *testing.T) {
	ns := newNameserver(t, func(_ string, q []byte) [][]byte {
		b := reply(q, 0, 1)
		b[2] |= 2 // TC
		return [][]byte{b}
	})
	d := &dialer{fail: func(network, _ string) error {
		if network == "tcp" {
			return syscall.ECONNREFUSED
		}
		return nil
	}}
	s := serve(t, d, dns.Config{}, ns)
	asked := question(t, 9, "example.com.", dnsmessage.TypeA, 0)
	if a := unpack(t, asked, s.ask(t, "udp", asked)); !a.Truncated || len(a.Answers) != 1 {
		t.Errorf("%+v", a)
	}
}

// A slow nameserver without TCP: the late answer counts.
func TestServerLateAnswer(t *testing.T) {
	dialed := make(chan struct{})
	ns := newNameserver(t, func(_ string, q []byte) [][]byte {
		<-dialed
		return [][]byte{reply(q, 0, 1)}
	})
	var once atomic.Bool
	d := &dialer{fail: func(network, _ string) error {
		if network == "tcp" {
			if !once.Swap(true) {
				defer close(dialed)
			}
			return syscall.ECONNREFUSED
		}
		return nil
	}}
	s := serve(t, d, dns.Config{Stagger: 20 * time.Millisecond, Timeout: time.Minute}, ns)
	asked := question(t, 9, "example.com.", dnsmessage.TypeA, 0)
	if a := unpack(t, asked, s.ask(t, "udp", asked)); len(a.Answers) != 1 {
		t.Errorf("%+v", a)
	}
}

// Some servers refuse with a bare header.
func TestServerBareRefusal(t *testing.T) {
	bare := newNameserver(t, func(_ string, q []byte) [][]byte {
		b := append([]byte(nil), q[:12]...)
		b[2], b[3] = 0x80, byte(dnsmessage.RCodeRefused)
		clear(b[4:])
		return [][]byte{b}
	})
	good := newNameserver(t, records(1))
	s := serve(t, &dialer{}, dns.Config{Stagger: time.Minute, Timeout: time.Hour}, bare, good)
	asked := question(t, 9, "example.com.", dnsmessage.TypeA, 0)
	if a := unpack(t, asked, s.ask(t, "udp", asked)); len(a.Answers) != 1 {
		t.Errorf("%+v", a)
	}
}

// flaky fails once before each of its first calls.
type flaky struct {
	net.PacketConn
	net.Listener
	errs chan error
}

func (f *flaky) next() error {
	select {
	case err := <-f.errs:
		return err
	default:
		return nil
	}
}

type flakyPacket struct{ *flaky }

func (f flakyPacket) Close() error { return f.PacketConn.Close() }

func (f flakyPacket) ReadFrom(b []byte) (int, net.Addr, error) {
	if err := f.next(); err != nil {
		return 0, nil, &net.OpError{Op: "read", Err: err}
	}
	return f.PacketConn.ReadFrom(b)
}

type flakyListener struct{ *flaky }

func (f flakyListener) Close() error   { return f.Listener.Close() }
func (f flakyListener) Addr() net.Addr { return f.Listener.Addr() }

func (f flakyListener) Accept() (net.Conn, error) {
	if err := f.next(); err != nil {
		return nil, &net.OpError{Op: "accept", Err: err}
	}
	return f.Listener.Accept()
}

// Late ICMP errors, connections that are gone before they are accepted, and a full
// table of files don't end the service. Other errors do.
func TestServerOutlives(t *testing.T) {
	p, l := listen(t)
	f := &flaky{PacketConn: p, Listener: l, errs: make(chan error, 8)}
	for _, err := range []error{syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.EMSGSIZE} {
		f.errs <- err
	}
	g := &flaky{Listener: l, errs: make(chan error, 8)}
	for _, err := range []error{syscall.ECONNABORTED, syscall.EMFILE, syscall.ENFILE} {
		g.errs <- err
	}
	s := dns.New(&dialer{}, dns.Config{Servers: dns.NewNameservers("/nonexistent").Servers, Timeout: time.Second})
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		done <- s.Serve(ctx, []net.PacketConn{flakyPacket{f}}, []net.Listener{flakyListener{g}})
	}()
	for _, network := range []string{"udp", "tcp"} {
		asked := question(t, 9, "example.com.", dnsmessage.TypeAXFR, 0) // answered without a nameserver
		(&server{s, p.LocalAddr().String()}).ask(t, network, asked)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := s.Serve(context.Background(), nil, nil); err == nil {
		t.Error("served twice")
	}

	p2, l2 := listen(t)
	defer l2.Close()
	broken := &flaky{PacketConn: p2, errs: make(chan error, 1)}
	broken.errs <- syscall.EIO
	err := dns.New(&dialer{}, dns.Config{}).Serve(context.Background(), []net.PacketConn{flakyPacket{broken}}, nil)
	if err == nil {
		t.Error("a broken socket is no error")
	}
}
