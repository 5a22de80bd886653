package datagram_test

import (
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"netstackd/internal/transparent/datagram"
	"netstackd/link"
)

// countLink is a TUN that only counts, without allocating.
type countLink struct {
	got chan int
}

func (countLink) USO() bool                        { return true }
func (countLink) MTU() uint32                      { return 1500 }
func (countLink) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }
func (l countLink) WriteRaw(_ uint32, o link.Offload, bufs [][]byte) error {
	n := 0
	for _, b := range bufs[1:] {
		n += len(b)
	}
	l.got <- n
	return nil
}

// TestUDPAllocs: in the steady state neither direction allocates.
func TestUDPAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool forget")
	}
	l := countLink{make(chan int, 1024)}
	r := newRigOn(t, l, rigConfig{dialer: &hostDialer{}, udp: datagram.UDPConfig{Inline: true}})
	srv := listen(t, "127.0.0.1")
	app := families[0].app
	const batch, size = 16, 1200
	pkts := make([]appPacket, batch)
	for i := range pkts {
		pkts[i] = appPacket{src: app, dst: srv.addr, payload: random(size), views: 2}
	}
	p := pkts[0].packet()
	defer p.Buf.DecRef()
	buf := make([]byte, 65536)
	var from netip.AddrPort
	srv.SetReadDeadline(time.Now().Add(time.Minute))
	round := func() {
		for range batch {
			r.udp.HandlePacket(p)
		}
		r.udp.Flush()
		for range batch {
			var err error
			if _, from, err = srv.ReadFromUDPAddrPort(buf); err != nil {
				t.Fatal(err)
			}
		}
		for range batch {
			if _, err := srv.WriteToUDPAddrPort(buf[:size], from); err != nil {
				t.Fatal(err)
			}
		}
		for n := 0; n < batch*size; {
			n += <-l.got
		}
	}
	if n := testing.AllocsPerRun(200, round); n >= 1 {
		t.Errorf("%v allocations for %d echoes", n, batch)
	}
}
