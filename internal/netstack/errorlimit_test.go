package netstack_test

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"netstackd/internal/ippkt"
	"netstackd/internal/netstack"
	"netstackd/tun/tuntest"
)

// A flood gets few errors, and costs others none: neither other sockets of the
// same host nor other hosts.
func TestErrorLimit(t *testing.T) {
	flooder := netip.MustParseAddr("10.0.0.1")
	for _, c := range []struct {
		name  string
		ports int // that the flood comes from
		most  int
		other func(i uint8) netip.AddrPort
	}{
		{"socket", 1, 50 + 2*100, func(i uint8) netip.AddrPort { return netip.AddrPortFrom(flooder, uint16(i)) }},
		{"host", 40_000, 250 + 2*1000, func(i uint8) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 1, i}), 7)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := netstack.NewErrorLimit()
				const flood, each, others = 140_000, 70, 40 // in 2 s, a batch each millisecond
				sent, lost := 0, 0
				for i := range flood {
					if l.Allow(netip.AddrPortFrom(flooder, 1024+uint16(i%c.ports))) {
						sent++
					}
					if i%each == each-1 {
						time.Sleep(time.Millisecond)
					}
					if i%(flood/others) == 0 && !l.Allow(c.other(uint8(i*others/flood))) {
						lost++
					}
				}
				if sent > c.most || sent < c.most/2 {
					t.Errorf("%d errors sent, want at most %d and at least half", sent, c.most)
				}
				if lost > others/10 { // a few may share the flood's bucket
					t.Errorf("%d of %d errors of others lost", lost, others)
				}
				if got := l.Suppressed(); got != uint64(flood-sent+lost) {
					t.Errorf("%d suppressed, want %d", got, flood-sent+lost)
				}
				time.Sleep(time.Second)
				if !l.Allow(netip.AddrPortFrom(flooder, 1024)) {
					t.Error("no error after the flood")
				}
			})
		})
	}
}

// The stack writes no error past its limit, and counts those that it kept back.
func TestWriteUnreachableLimit(t *testing.T) {
	dev, s := alone(t, tuntest.Config{}, netstack.Config{})
	quote := make([]byte, header.IPv4MinimumSize+8)
	header.IPv4(quote).Encode(&header.IPv4Fields{
		TotalLength: uint16(len(quote)), TTL: 64, Protocol: 17,
		SrcAddr: tcpip.AddrFrom4(appV4.Addr().As4()), DstAddr: tcpip.AddrFrom4(foreignV4.As4()),
	})
	const flood = 5000
	start := time.Now()
	written := 0
	for range flood {
		before := s.Stats().Suppressed
		s.WriteUnreachable(foreignV4, quote, ippkt.AdminProhibited)
		if s.Stats().Suppressed == before {
			answer(t, dev)
			written++
		}
	}
	if most := 51 + int(100*time.Since(start).Seconds()); written > most {
		t.Errorf("%d of %d errors written, want at most %d", written, flood, most)
	}
}

func TestErrorLimitAllocs(t *testing.T) {
	l, to := netstack.NewErrorLimit(), netip.MustParseAddrPort("[fd00::1]:7")
	if n := testing.AllocsPerRun(100, func() { l.Allow(to) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
