package dns_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"netstackd/internal/dns"

	"golang.org/x/net/dns/dnsmessage"
)

func TestServerForwards(t *testing.T) {
	ns := newNameserver(t, records(1))
	s := serve(t, &dialer{}, dns.Config{}, ns)
	for _, network := range []string{"udp", "tcp"} {
		asked := question(t, 0x1234, "www.Example.COM.", dnsmessage.TypeA, 1232)
		a := unpack(t, asked, s.ask(t, network, asked))
		if a.RCode != 0 || len(a.Answers) != 1 {
			t.Fatalf("over %s: %+v", network, a)
		}
		if got := a.Answers[0].Header.Name.String(); got != "www.Example.COM." {
			t.Errorf("over %s: the answer is for %q: case was not put back", network, got)
		}
	}
	if got := s.Stats(); got.Queries != 2 || got.Answered != 2 || got.TCP != 0 {
		t.Errorf("stats %+v", got)
	}
}

// What a nameserver sees must not be guessable.
func TestServerRandomizes(t *testing.T) {
	var mu sync.Mutex
	ids, cases := make(map[uint16]bool), make(map[string]bool)
	ns := newNameserver(t, func(_ string, q []byte) [][]byte {
		mu.Lock()
		ids[binary.BigEndian.Uint16(q)] = true
		cases[string(q[12:40])] = true
		mu.Unlock()
		return [][]byte{reply(q, 0, 1)}
	})
	s := serve(t, &dialer{}, dns.Config{}, ns)
	asked := question(t, 7, "a-name-with-many-letters.example.com.", dnsmessage.TypeA, 0)
	for range 32 {
		unpack(t, asked, s.ask(t, "udp", asked))
	}
	mu.Lock()
	defer mu.Unlock()
	if len(ids) < 30 || len(cases) < 30 {
		t.Errorf("32 queries had %d IDs and %d ways to write the name", len(ids), len(cases))
	}
}

// An answer with another ID, another question or no question is not taken; the
// right one after it is.
func TestServerIgnoresForged(t *testing.T) {
	ns := newNameserver(t, func(_ string, q []byte) [][]byte {
		otherID := reply(q, 0, 9)
		otherID[0] ^= 1
		otherName := reply(q, 0, 9)
		otherName[13] = '!'
		noQR := reply(q, 0, 9)
		noQR[2] &^= 0x80
		return [][]byte{{}, []byte("short"), otherID, otherName, noQR, reply(q, 0, 1)}
	})
	s := serve(t, &dialer{}, dns.Config{}, ns)
	asked := question(t, 7, "example.com.", dnsmessage.TypeA, 0)
	if a := unpack(t, asked, s.ask(t, "udp", asked)); len(a.Answers) != 1 {
		t.Errorf("a forged answer came through: %+v", a)
	}
	if got := s.Stats().Forged; got != 5 {
		t.Errorf("%d forged answers counted, want 5", got)
	}
}

// A nameserver that writes the name in lower case is asked over TCP, where it
// doesn't matter.
func TestServerCase(t *testing.T) {
	ns := newNameserver(t, func(_ string, q []byte) [][]byte {
		b := reply(q, 0, 1)
		copy(b[12:], bytes.ToLower(b[12:12+20]))
		return [][]byte{b}
	})
	s := serve(t, &dialer{}, dns.Config{}, ns)
	asked := question(t, 7, "www.many-letters.com.", dnsmessage.TypeA, 0)
	if a := unpack(t, asked, s.ask(t, "udp", asked)); len(a.Answers) != 1 {
		t.Errorf("%+v", a)
	}
}

func TestServerTruncates(t *testing.T) {
	// 100 addresses are 1,600 bytes and more.
	ns := newNameserver(t, func(network string, q []byte) [][]byte {
		if network == "udp" {
			b := reply(q, 0, 0)
			b[2] |= 2 // TC
			return [][]byte{b}
		}
		return [][]byte{reply(q, 0, 100)}
	})
	s := serve(t, &dialer{}, dns.Config{}, ns)
	for _, tc := range []struct {
		network string
		edns    int
		whole   bool
	}{
		{"udp", 0, false}, {"udp", 1232, false}, {"udp", 4096, true}, {"tcp", 0, true}, {"tcp", 1232, true},
	} {
		asked := question(t, 9, "big.example.com.", dnsmessage.TypeA, tc.edns)
		a := unpack(t, asked, s.ask(t, tc.network, asked))
		if a.Truncated == tc.whole || (len(a.Answers) == 100) != tc.whole {
			t.Errorf("%s, EDNS %d: TC %v, %d answers", tc.network, tc.edns, a.Truncated, len(a.Answers))
		}
		if (len(a.Additionals) == 1) != (tc.edns > 0) && !tc.whole {
			t.Errorf("%s, EDNS %d: %d additional records", tc.network, tc.edns, len(a.Additionals))
		}
	}
	if ns.conns.Load() != 1 {
		t.Errorf("%d TCP connections for 5 queries, want 1", ns.conns.Load())
	}
}

// The next nameserver is asked when one says that it can't, is not there, or is
// silent, and the last then stays behind.
func TestServerNext(t *testing.T) {
	good := newNameserver(t, records(1))
	for _, tc := range []struct {
		name  string
		first func(string, []byte) [][]byte
	}{
		{"servfail", func(_ string, q []byte) [][]byte { return [][]byte{reply(q, dnsmessage.RCodeServerFailure, 0)} }},
		{"refused", func(_ string, q []byte) [][]byte { return [][]byte{reply(q, dnsmessage.RCodeRefused, 0)} }},
		{"silent", func(string, []byte) [][]byte { return nil }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bad := newNameserver(t, tc.first)
			s := serve(t, &dialer{}, dns.Config{Stagger: 50 * time.Millisecond}, bad, good)
			for i := range 3 {
				asked := question(t, 9, name(i), dnsmessage.TypeA, 0)
				if a := unpack(t, asked, s.ask(t, "udp", asked)); len(a.Answers) != 1 {
					t.Errorf("%+v", a)
				}
			}
			if tc.name == "silent" && bad.udp.Load() != 1 {
				t.Errorf("the silent nameserver was asked %d times, want once", bad.udp.Load())
			}
		})
	}
}

// When nothing answers, the program gets SERVFAIL: at once where that is clear,
// else before it gives up.
func TestServerFails(t *testing.T) {
	closed := func() netip.AddrPort {
		p, l := listen(t)
		defer p.Close()
		defer l.Close()
		return netip.MustParseAddrPort(p.LocalAddr().String())
	}
	for _, tc := range []struct {
		name    string
		servers []netip.AddrPort
	}{
		{"refused", []netip.AddrPort{closed(), closed()}},
		{"none", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := serve(t, &dialer{}, dns.Config{
				Servers: func() []netip.AddrPort { return tc.servers },
				Timeout: time.Hour, Stagger: time.Hour, // that is not what ends it
			})
			asked := question(t, 9, "example.com.", dnsmessage.TypeA, 512)
			if a := unpack(t, asked, s.ask(t, "udp", asked)); a.RCode != dnsmessage.RCodeServerFailure {
				t.Errorf("%+v, want SERVFAIL", a)
			}
			if got := s.Stats().Failed; got != 1 {
				t.Errorf("%d failed", got)
			}
		})
	}
	t.Run("silent", func(t *testing.T) {
		silent := newNameserver(t, func(string, []byte) [][]byte { return nil })
		s := serve(t, &dialer{}, dns.Config{Timeout: 200 * time.Millisecond, Stagger: 50 * time.Millisecond}, silent)
		asked := question(t, 9, "example.com.", dnsmessage.TypeA, 0)
		if a := unpack(t, asked, s.ask(t, "udp", asked)); a.RCode != dnsmessage.RCodeServerFailure {
			t.Errorf("%+v, want SERVFAIL", a)
		}
		if udp, tcp := silent.udp.Load(), silent.tcp.Load(); udp != 2 || tcp == 0 {
			t.Errorf("asked %d times over UDP and %d over TCP, want 2 and some", udp, tcp)
		}
	})
	// The nameservers' own failure is passed on when it is all there is.
	t.Run("servfail", func(t *testing.T) {
		bad := newNameserver(t, func(_ string, q []byte) [][]byte { return [][]byte{reply(q, dnsmessage.RCodeRefused, 0)} })
		s := serve(t, &dialer{}, dns.Config{}, bad)
		asked := question(t, 9, "example.com.", dnsmessage.TypeA, 0)
		if a := unpack(t, asked, s.ask(t, "udp", asked)); a.RCode != dnsmessage.RCodeRefused || bad.udp.Load() != 1 {
			t.Errorf("%+v after %d questions, want the nameserver's REFUSED after one", a, bad.udp.Load())
		}
	})
}

// An upstream without UDP: everything goes over one TCP connection.
func TestServerUpstreamWithoutUDP(t *testing.T) {
	ns := newNameserver(t, records(1))
	d := &dialer{fail: func(network, _ string) error {
		if network == "udp" {
			return errors.ErrUnsupported
		}
		return nil
	}}
	s := serve(t, d, dns.Config{}, ns)
	for i := range 10 {
		asked := question(t, 9, name(i), dnsmessage.TypeA, 0)
		if a := unpack(t, asked, s.ask(t, "udp", asked)); len(a.Answers) != 1 {
			t.Errorf("%+v", a)
		}
	}
	if ns.udp.Load() != 0 || ns.conns.Load() != 1 || d.udp.Load() != 1 {
		t.Errorf("%d UDP questions, %d TCP connections, %d UDP dials; want 0, 1, 1",
			ns.udp.Load(), ns.conns.Load(), d.udp.Load())
	}
}

// An upstream that takes UDP and drops it: TCP is tried beside.
func TestServerUpstreamSwallowsUDP(t *testing.T) {
	ns := newNameserver(t, func(network string, q []byte) [][]byte {
		if network == "udp" {
			return nil
		}
		return [][]byte{reply(q, 0, 1)}
	})
	s := serve(t, &dialer{}, dns.Config{Stagger: 20 * time.Millisecond, Timeout: time.Minute}, ns)
	for i := range 3 {
		asked := question(t, 9, name(i), dnsmessage.TypeA, 0)
		if a := unpack(t, asked, s.ask(t, "udp", asked)); len(a.Answers) != 1 {
			t.Errorf("%+v", a)
		}
	}
	if got := ns.udp.Load(); got > 2 {
		t.Errorf("%d questions over UDP, want those of the first query", got)
	}
}

// A nameserver may close its connection after each answer.
func TestServerReconnects(t *testing.T) {
	ns := newNameserver(t, records(1))
	ns.hangUp.Store(true)
	d := &dialer{fail: func(network, _ string) error {
		if network == "udp" {
			return syscall.ECONNREFUSED
		}
		return nil
	}}
	s := serve(t, d, dns.Config{}, ns)
	for i := range 20 {
		asked := question(t, 9, name(i), dnsmessage.TypeA, 0)
		if a := unpack(t, asked, s.ask(t, "udp", asked)); a.RCode != 0 || len(a.Answers) != 1 {
			t.Errorf("%+v", a)
		}
	}
}

func TestServerNoIPv6(t *testing.T) {
	ns := newNameserver(t, records(1))
	s := serve(t, &dialer{}, dns.Config{NoIPv6: true}, ns)
	asked := question(t, 9, "example.com.", dnsmessage.TypeAAAA, 1232)
	if a := unpack(t, asked, s.ask(t, "udp", asked)); a.RCode != 0 || len(a.Answers) != 0 || !a.RecursionAvailable {
		t.Errorf("AAAA: %+v, want an empty answer", a)
	}
	asked = question(t, 9, "example.com.", dnsmessage.TypeA, 0)
	if a := unpack(t, asked, s.ask(t, "udp", asked)); len(a.Answers) != 1 {
		t.Errorf("A: %+v", a)
	}
	if ns.udp.Load() != 1 {
		t.Errorf("the nameserver got %d questions, want 1", ns.udp.Load())
	}
}
