package dns_test

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"netstackd/internal/dns"

	"golang.org/x/net/dns/dnsmessage"
)

// capturedAddr is a client that asked some nameserver and was captured.
type capturedAddr struct {
	*net.UDPAddr
	asked netip.AddrPort
}

func (a capturedAddr) Asked() netip.AddrPort { return a.asked }

type capturedPackets struct {
	net.PacketConn
	asked netip.AddrPort
}

func (c capturedPackets) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.PacketConn.ReadFrom(b)
	if err != nil {
		return n, from, err
	}
	return n, capturedAddr{from.(*net.UDPAddr), c.asked}, nil
}

func (c capturedPackets) WriteTo(b []byte, to net.Addr) (int, error) {
	return c.PacketConn.WriteTo(b, to.(capturedAddr).UDPAddr)
}

// A captured query is asked the nameserver that it was meant for, over what the
// dialer has, and others in its place only where that is wanted.
func TestServerCaptured(t *testing.T) {
	other := newNameserver(t, records(2))
	asked := newNameserver(t, records(1))
	refuse := func(network, address string) error {
		if address == asked.addr.String() {
			return syscall.ECONNREFUSED
		}
		return nil
	}
	noUDP := func(network, _ string) error {
		if network == "udp" {
			return syscall.EOPNOTSUPP
		}
		return nil
	}
	for _, c := range []struct {
		name     string
		captured dns.Captured
		fail     func(network, address string) error
		iterate  bool // recursion is not wanted
		answers  int  // -1 is SERVFAIL
	}{
		{"asked", dns.AskedOnly, nil, false, 1},
		{"asked over TCP", dns.AskedOnly, noUDP, false, 1},
		{"asked first", dns.AskedFirst, noUDP, false, 1},
		{"another", dns.AskedFirst, refuse, false, 2},
		{"no other", dns.AskedOnly, refuse, false, -1},
		{"no other without recursion", dns.AskedFirst, refuse, true, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := dns.New(&dialer{fail: c.fail}, dns.Config{
				Servers:  func() []netip.AddrPort { return []netip.AddrPort{other.addr} },
				Captured: c.captured,
			})
			p, l := listen(t)
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() {
				done <- s.Serve(ctx, []net.PacketConn{capturedPackets{p, asked.addr}}, []net.Listener{l})
			}()
			defer func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}()
			q := question(t, 1, "www.example.com.", dnsmessage.TypeA, 0)
			if c.iterate {
				q[2] &^= 1 // RD
			}
			a := unpack(t, q, (&server{s, p.LocalAddr().String()}).ask(t, "udp", q))
			if c.answers < 0 && a.RCode != dnsmessage.RCodeServerFailure || c.answers >= 0 && len(a.Answers) != c.answers {
				t.Errorf("%v with %d answers, want %d", a.RCode, len(a.Answers), c.answers)
			}
		})
	}
}

// The nameservers that clients ask are theirs to choose; what is remembered of
// them is bounded.
func TestServerRemembersFew(t *testing.T) {
	if n := dns.Remembered(5000, time.Now()); n > 1024 {
		t.Errorf("%d nameservers are remembered", n)
	}
}
