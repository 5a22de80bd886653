package dns_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"netstackd/internal/dns"
	"netstackd/internal/flow"

	"golang.org/x/net/dns/dnsmessage"
)

// A nameserver that asks us what we ask it is found out at the first query, and
// the next one is asked at once.
func TestServerLoop(t *testing.T) {
	var log lockedBuffer
	started := make(chan *server, 1)
	var turns atomic.Int64
	looping := newNameserver(t, func(_ string, q []byte) [][]byte {
		turns.Add(1)
		s := <-started
		started <- s
		return [][]byte{s.ask(t, "udp", q)}
	})
	good := newNameserver(t, records(1))
	s := serve(t, &dialer{}, dns.Config{
		Stagger: time.Minute, Timeout: time.Minute, // that is not what ends it
		MaxQueries: 64,
		Logger:     slog.New(slog.NewTextHandler(&log, nil)),
	}, looping, good)
	started <- s
	for i := range 3 {
		asked := question(t, 9, "www"+name(i), dnsmessage.TypeA, 0)
		if a := unpack(t, asked, s.ask(t, "udp", asked)); a.RCode != 0 || len(a.Answers) != 1 {
			t.Errorf("%+v", a)
		}
	}
	if n := turns.Load(); n != 1 {
		t.Errorf("the nameserver was asked %d times for 3 queries, want once", n)
	}
	if text := log.String(); strings.Count(text, "level=WARN") != 1 || !strings.Contains(text, looping.addr.String()) {
		t.Errorf("want one warning that names %s:\n%s", looping.addr, text)
	}
}

// A nameserver of this host forwards to another, and its query is captured. That
// is no loop: the other one is asked, and no third in its place.
func TestServerForwarderIsCaptured(t *testing.T) {
	good := newNameserver(t, records(1))
	dead := newNameserver(t, func(string, []byte) [][]byte { return nil })
	for _, c := range []struct {
		name     string
		asked    *nameserver
		captured dns.Captured
		answers  int
		forwards int64
	}{
		{"asked only", good, dns.AskedOnly, 1, 1},
		{"asked first", good, dns.AskedFirst, 1, 1},
		{"asked first, refused", dead, dns.AskedFirst, 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var log lockedBuffer
			plain, streams := listen(t)
			captured, unused := listen(t)
			unused.Close()
			var forwards atomic.Int64
			forwarder := newNameserver(t, func(network string, q []byte) [][]byte {
				if network != "udp" {
					return nil
				}
				forwards.Add(1)
				return [][]byte{(&server{nil, captured.LocalAddr().String()}).ask(t, "udp", q)}
			})
			s := dns.New(&dialer{fail: func(_, address string) error {
				if address == dead.addr.String() {
					return syscall.ECONNREFUSED
				}
				return nil
			}}, dns.Config{
				Servers:  func() []netip.AddrPort { return []netip.AddrPort{forwarder.addr} },
				Captured: c.captured,
				Stagger:  time.Minute, Timeout: time.Minute, // that is not what ends it
				Logger: slog.New(slog.NewTextHandler(&log, nil)),
			})
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() {
				done <- s.Serve(ctx, []net.PacketConn{plain, capturedPackets{captured, c.asked.addr}}, []net.Listener{streams})
			}()
			defer func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}()
			q := question(t, 9, "www.example.com.", dnsmessage.TypeA, 0)
			a := unpack(t, q, (&server{s, plain.LocalAddr().String()}).ask(t, "udp", q))
			if len(a.Answers) != c.answers || (a.RCode == dnsmessage.RCodeSuccess) != (c.answers > 0) {
				t.Errorf("%v with %d answers, want %d", a.RCode, len(a.Answers), c.answers)
			}
			if n := forwards.Load(); n != c.forwards || log.String() != "" {
				t.Errorf("forwarded %d times, want %d; log:\n%s", n, c.forwards, log.String())
			}
		})
	}
}

// A nameserver that may not be asked, such as the stack itself, is left out, and
// so is a query whose source has no business here.
func TestServerPermit(t *testing.T) {
	var log lockedBuffer
	own := newNameserver(t, records(1))
	good := newNameserver(t, records(2))
	foreign := errors.New("a foreign source")
	var refuseSource atomic.Bool
	s := serve(t, &dialer{}, dns.Config{
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
		Permit: func(m *flow.Meta) error {
			switch {
			case m.Inbound != flow.Internal || !m.Source.IsValid():
				t.Errorf("asked about %+v", m)
			case m.Dest == own.addr:
				return errors.New("the stack itself")
			case m.Dest == (netip.AddrPort{}) && refuseSource.Load():
				return foreign
			}
			return nil
		},
	}, own, good)
	for i := range 3 {
		asked := question(t, 9, name(i), dnsmessage.TypeA, 0)
		if a := unpack(t, asked, s.ask(t, "udp", asked)); len(a.Answers) != 2 {
			t.Errorf("%+v", a)
		}
	}
	if own.udp.Load() != 0 || strings.Count(log.String(), "level=WARN") != 1 {
		t.Errorf("asked %d times; log:\n%s", own.udp.Load(), log.String())
	}
	refuseSource.Store(true)
	before := good.udp.Load()
	asked := question(t, 9, name(9), dnsmessage.TypeA, 0)
	if a := unpack(t, asked, s.ask(t, "udp", asked)); a.RCode != dnsmessage.RCodeServerFailure || good.udp.Load() != before {
		t.Errorf("from a refused source: %+v", a)
	}
}

// lockedBuffer is a log that many goroutines write.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
