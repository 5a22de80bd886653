package datagram_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"net/netip"
	"testing"

	"netstackd/internal/transparent/datagram"
)

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return b
}

// linkKinds are the devices that there are.
var linkKinds = []struct {
	name      string
	vnet, uso bool
}{
	{"uso", true, true},
	{"vnet", true, false},
	{"plain", false, false},
}

// TestUDPSizes sends datagrams of all sizes both ways: what exceeds the TUN's
// MTU reaches the application in fragments.
func TestUDPSizes(t *testing.T) {
	for _, kind := range linkKinds {
		for _, mtu := range []uint32{1280, 1500, 65000} {
			t.Run(fmt.Sprintf("%s/mtu=%d", kind.name, mtu), func(t *testing.T) {
				eachFamily(t, func(t *testing.T, app netip.AddrPort, host string) {
					testSizes(t, newFakeLink(kind.vnet, kind.uso, mtu), app, host)
				})
			})
		}
	}
}

func testSizes(t *testing.T, l *fakeLink, app netip.AddrPort, host string) {
	r := newRig(t, rigConfig{link: l})
	srv := listen(t, host)
	largest := 65507
	if !app.Addr().Is4() {
		largest = 65527
	}
	for _, size := range []int{0, 1, 2, 1200, 1231, 1232, 1233, 1452, 1453, 1472, 1473, 9001, 64972, 64973, largest} {
		msg := random(size)
		r.send(appPacket{src: app, dst: srv.addr, payload: msg, noDF: true, views: 1 + size%5})
		got, from := srv.next(t)
		if !bytes.Equal(got, msg) {
			t.Fatalf("size %d: server got %d bytes, not the same", size, len(got))
		}
		srv.write(t, msg, from)
		a := l.answers(t, 1)[0]
		if !bytes.Equal(a.payload, msg) {
			t.Fatalf("size %d: application got %d bytes, not the same", size, len(a.payload))
		}
	}
}

// TestUDPTrains sends trains both ways.
func TestUDPTrains(t *testing.T) {
	for _, kind := range linkKinds {
		for _, seg := range []int{100, 1200, 1452} {
			t.Run(fmt.Sprintf("%s/seg=%d", kind.name, seg), func(t *testing.T) {
				eachFamily(t, func(t *testing.T, app netip.AddrPort, host string) {
					testTrains(t, newFakeLink(kind.vnet, kind.uso, 1500), app, host, seg)
				})
			})
		}
	}
}

func testTrains(t *testing.T, l *fakeLink, app netip.AddrPort, host string, seg int) {
	r := newRig(t, rigConfig{link: l})
	srv := listen(t, host)
	for _, size := range []int{2 * seg, 2*seg + 1, 40 * seg, 44*seg + seg/2} {
		msg := random(size)
		r.send(appPacket{src: app, dst: srv.addr, payload: msg, seg: seg, views: 3})
		var from netip.AddrPort
		for want := range bytesChunks(msg, seg) {
			var got []byte
			if got, from = srv.next(t); !bytes.Equal(got, want) {
				t.Fatalf("size %d: server got %d bytes, want %d", size, len(got), len(want))
			}
		}
		srv.writeTrain(t, msg, seg, from)
		answers := l.answers(t, (size+seg-1)/seg)
		i := 0
		for want := range bytesChunks(msg, seg) {
			if !bytes.Equal(answers[i].payload, want) || answers[i].src != srv.addr {
				t.Fatalf("size %d: answer %d is wrong", size, i)
			}
			i++
		}
	}
}

// TestUDPMerge sends datagrams of one batch as trains where that's possible.
func TestUDPMerge(t *testing.T) {
	r := newRig(t, rigConfig{})
	a, b := listen(t, "127.0.0.1"), listen(t, "127.0.0.1")
	app := families[0].app
	batch := []appPacket{
		{dst: a.addr, payload: random(1000)}, {dst: a.addr, payload: random(1000)}, {dst: a.addr, payload: random(10)},
		{dst: a.addr, payload: random(1000)}, {dst: b.addr, payload: random(1000)}, {dst: a.addr, payload: nil},
		{dst: a.addr, payload: random(3000), seg: 1000}, {dst: a.addr, payload: random(1000)}, {dst: a.addr, payload: random(2500), seg: 1000},
		{dst: a.addr, payload: random(1000), tos: 4}, {dst: a.addr, payload: random(1000), tos: 4},
		{dst: a.addr, payload: random(2000), noDF: true}, {dst: a.addr, payload: random(2000)},
	}
	var wantA, wantB [][]byte
	for i := range batch {
		batch[i].src = app
		list := &wantA
		if batch[i].dst == b.addr {
			list = &wantB
		}
		if len(batch[i].payload) == 0 {
			*list = append(*list, nil)
			continue
		}
		seg := batch[i].seg
		if seg == 0 {
			seg = len(batch[i].payload)
		}
		for c := range bytesChunks(batch[i].payload, seg) {
			*list = append(*list, c)
		}
	}
	r.send(batch...)
	for _, s := range []struct {
		*server
		want [][]byte
	}{{a, wantA}, {b, wantB}} {
		for i, want := range s.want {
			if got, _ := s.next(t); !bytes.Equal(got, want) {
				t.Fatalf("datagram %d: got %d bytes, want %d", i, len(got), len(want))
			}
		}
	}
	st := r.udp.Stats()
	if want := uint64(len(wantA) + len(wantB)); st.Up != want || st.DroppedSend != 0 {
		t.Errorf("%d sent, want %d; stats %+v", st.Up, want, st)
	}
}

// TestUDPNoRoute: what the host can't route is refused at once.
func TestUDPNoRoute(t *testing.T) {
	r := newRig(t, rigConfig{udp: datagram.UDPConfig{Inline: true}, dialer: &hostDialer{}})
	app := families[1].app
	dst := netip.MustParseAddrPort("[100::1]:9") // discard-only (RFC 6666)
	r.send(appPacket{src: app, dst: dst, payload: []byte("x")})
	select {
	case w := <-r.link.packets:
		e := parseICMPError(t, w.data)
		if e.typ != 1 || e.from != dst.Addr() || e.src != app || e.dst != dst {
			t.Errorf("error %+v", e)
		}
	default:
		if st := r.udp.Stats(); st.Up != 1 {
			t.Errorf("neither sent nor refused: %+v", st)
		}
	}
}

func TestUDPTTL(t *testing.T) {
	router := []netip.Addr{netip.MustParseAddr("198.18.0.2"), netip.MustParseAddr("fd19:8::2")}
	eachFamily(t, func(t *testing.T, app netip.AddrPort, host string) {
		r := newRig(t, rigConfig{dialer: &hostDialer{}, udp: datagram.UDPConfig{Inline: true, Router: router}})
		srv := listen(t, host)
		r.send(appPacket{src: app, dst: srv.addr, payload: []byte("x"), ttl: 1})
		e := parseICMPError(t, r.link.next(t).data)
		wantType := uint8(11)
		if !app.Addr().Is4() {
			wantType = 3
		}
		if e.typ != wantType || e.code != 0 || e.src != app || e.dst != srv.addr {
			t.Errorf("error %+v", e)
		}
		for _, a := range router {
			if a.Is4() == app.Addr().Is4() && e.from != a {
				t.Errorf("from %v, want %v", e.from, a)
			}
		}
	})
}
