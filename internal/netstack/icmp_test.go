package netstack_test

import (
	"bytes"
	"net/netip"
	"testing"

	"netstackd/internal/netstack"
)

// An error quotes what it may, from whatever pieces, and appends no more.
func TestICMPErrorAppend(t *testing.T) {
	quote := bytes.Repeat([]byte("quoted packet "), 200)
	for _, tt := range []struct {
		from, to netip.Addr
		longest  int // RFC 1812 §4.3.2.3, RFC 4443 §2.4 (c)
		headers  int
	}{
		{foreignV4, appV4.Addr(), 576, 20 + 8},
		{foreignV6, appV6.Addr(), 1280, 40 + 8},
	} {
		for _, cut := range []int{0, 1, 33, 1000} {
			for _, n := range []int{28, 101, tt.longest - tt.headers, len(quote)} {
				e := netstack.AdminProhibited.Message(tt.from)
				e.Info = 0x01020304
				b := e.Append([]byte("before"), tt.to, quote[:min(cut, n)], nil, quote[min(cut, n):n])
				b, ok := bytes.CutPrefix(b, []byte("before"))
				got := parseUnreachable(t, b)
				want := quote[:min(n, tt.longest-tt.headers)]
				if !ok || got.src != tt.from || got.dst != tt.to || !bytes.Equal(got.quote, want) {
					t.Errorf("%d bytes cut at %d: %x", n, cut, b)
				}
				if info := b[tt.headers-4 : tt.headers]; !bytes.Equal(info, []byte{1, 2, 3, 4}) {
					t.Errorf("second word %x", info)
				}
			}
		}
		room := make([]byte, 0, netstack.MaxICMPError)
		pieces := [][]byte{quote[:40], quote[40:]}
		if n := testing.AllocsPerRun(100, func() {
			e := netstack.HostUnreachable.Message(tt.from)
			e.Append(room, tt.to, pieces...)
		}); n != 0 && !raceEnabled {
			t.Errorf("%v allocations for an error from %s", n, tt.from)
		}
	}
}
