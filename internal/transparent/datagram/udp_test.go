package datagram_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"
	"unsafe"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"netstackd/internal/epoll"
	"netstackd/internal/flow"
	"netstackd/internal/netstack"
	"netstackd/internal/transparent/datagram"
	"netstackd/internal/transparent/outlet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hostDialer opens host sockets as hostnet does, and notes them.
type hostDialer struct {
	mu    sync.Mutex
	metas []flow.Meta
	fail  func(n int) error // of the nth call, from 1
}

func (d *hostDialer) ListenPacket(ctx context.Context, m *flow.Meta, network, address string) (net.PacketConn, error) {
	d.mu.Lock()
	d.metas = append(d.metas, *m)
	n := len(d.metas)
	d.mu.Unlock()
	if d.fail != nil {
		if err := d.fail(n); err != nil {
			return nil, err
		}
	}
	if address == "" {
		address = ":0"
	}
	return new(net.ListenConfig).ListenPacket(ctx, network, address)
}

func (d *hostDialer) opened() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.metas)
}

// rig is a UDP between a fake TUN and the host's loopback.
type rig struct {
	t     testing.TB
	link  *fakeLink
	udp   *datagram.UDP
	flows *flow.Registry
}

type rigConfig struct {
	link   *fakeLink
	dialer datagram.PacketDialer
	flows  *flow.Registry
	udp    datagram.UDPConfig
}

func newRig(t testing.TB, cfg rigConfig) *rig {
	t.Helper()
	if cfg.link == nil {
		cfg.link = newFakeLink(true, true, 65000)
	}
	r := newRigOn(t, cfg.link, cfg)
	r.link = cfg.link
	return r
}

func newRigOn(t testing.TB, l outlet.Link, cfg rigConfig) *rig {
	t.Helper()
	if cfg.dialer == nil {
		cfg.dialer = &hostDialer{}
		cfg.udp.Inline = true
	}
	if cfg.flows == nil {
		cfg.flows = flow.NewRegistry(flow.Config{})
	}
	loop, err := epoll.New(2)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, flows: cfg.flows}
	r.udp = datagram.NewUDP(l, cfg.dialer, loop, cfg.flows, cfg.udp)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.udp.Serve(ctx); err != nil {
			t.Error(err)
		}
	})
	var lg sync.WaitGroup
	lctx, lcancel := context.WithCancel(context.Background())
	lg.Go(func() {
		if err := loop.Serve(lctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		lcancel()
		lg.Wait()
		if n := cfg.flows.Len(); n != 0 {
			t.Errorf("%d flows left open", n)
		}
		if n := r.udp.Stats().Sessions; n != 0 {
			t.Errorf("%d sessions left", n)
		}
	})
	return r
}

// send hands a batch to UDP.
func (r *rig) send(pkts ...appPacket) {
	r.t.Helper()
	for i := range pkts {
		p := pkts[i].packet()
		if !r.udp.HandlePacket(p) {
			r.t.Fatalf("packet to %v not taken", pkts[i].dst)
		}
		p.Buf.DecRef()
	}
	r.udp.Flush()
}

// server is a UDP socket on the host that echoes, if told to.
type server struct {
	*net.UDPConn
	addr netip.AddrPort
}

func listen(t testing.TB, host string) *server {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(host), 0)))
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadBuffer(4 << 20)
	t.Cleanup(func() { c.Close() })
	return &server{c, c.LocalAddr().(*net.UDPAddr).AddrPort()}
}

// next reads a datagram.
func (s *server) next(t testing.TB) ([]byte, netip.AddrPort) {
	t.Helper()
	b := make([]byte, 65536)
	s.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, src, err := s.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n], netip.AddrPortFrom(src.Addr().Unmap(), src.Port())
}

func (s *server) write(t testing.TB, b []byte, dst netip.AddrPort) {
	t.Helper()
	if _, err := s.WriteToUDPAddrPort(b, dst); err != nil {
		t.Fatal(err)
	}
}

// families are the hosts that tests run between.
var families = []struct {
	name string
	app  netip.AddrPort
	host string
}{
	{"ipv4", netip.MustParseAddrPort("10.9.9.9:5555"), "127.0.0.1"},
	{"ipv6", netip.MustParseAddrPort("[fd00::9]:5555"), "::1"},
}

func eachFamily(t *testing.T, f func(t *testing.T, app netip.AddrPort, host string)) {
	for _, fam := range families {
		t.Run(fam.name, func(t *testing.T) { f(t, fam.app, fam.host) })
	}
}

func TestUDPEcho(t *testing.T) {
	eachFamily(t, func(t *testing.T, app netip.AddrPort, host string) {
		r := newRig(t, rigConfig{})
		srv := listen(t, host)
		for i := range 10 {
			msg := fmt.Appendf(nil, "question %d", i)
			r.send(appPacket{src: app, dst: srv.addr, payload: msg})
			got, from := srv.next(t)
			if !bytes.Equal(got, msg) {
				t.Fatalf("server got %q, want %q", got, msg)
			}
			srv.write(t, append(got, '!'), from)
			a := r.link.answers(t, 1)[0]
			if a.src != srv.addr || a.dst != app || string(a.payload) != string(msg)+"!" {
				t.Fatalf("application got %+v", a)
			}
		}
		st := r.udp.Stats()
		if st.Sessions != 1 || st.Up != 10 || st.Down != 10 {
			t.Errorf("stats %+v", st)
		}
	})
}

// One mapping for all destinations, and answers from anyone, to whom the
// mapping's address is all that they need (RFC 4787 §4.1 and §5).
func TestUDPEndpointIndependence(t *testing.T) {
	eachFamily(t, func(t *testing.T, app netip.AddrPort, host string) {
		d := &hostDialer{}
		r := newRig(t, rigConfig{dialer: d, udp: datagram.UDPConfig{Inline: true}})
		a, b, stranger := listen(t, host), listen(t, host), listen(t, host)
		r.send(appPacket{src: app, dst: a.addr, payload: []byte("to a")}, appPacket{src: app, dst: b.addr, payload: []byte("to b")})
		_, fromA := a.next(t)
		_, fromB := b.next(t)
		if fromA != fromB {
			t.Errorf("two mappings: %v and %v", fromA, fromB)
		}
		if d.opened() != 1 {
			t.Errorf("%d sockets opened", d.opened())
		}
		stranger.write(t, []byte("unasked"), fromA)
		if got := r.link.answers(t, 1)[0]; got.src != stranger.addr || string(got.payload) != "unasked" {
			t.Errorf("application got %+v", got)
		}
		other := netip.AddrPortFrom(app.Addr(), app.Port()+1)
		r.send(appPacket{src: other, dst: a.addr, payload: []byte("x")})
		if _, from := a.next(t); from == fromA {
			t.Error("two application addresses share a mapping")
		}
		if m := d.metas[0]; m.Source != app || m.Dest != a.addr || m.Network != "udp" {
			t.Errorf("meta %+v", m)
		}
	})
}

// Datagrams wait for a dialer that takes its time.
func TestUDPSlowDialer(t *testing.T) {
	gate := make(chan struct{})
	d := &hostDialer{fail: func(int) error { <-gate; return nil }}
	r := newRig(t, rigConfig{dialer: d})
	srv := listen(t, "127.0.0.1")
	app := families[0].app
	for i := range 3 {
		r.send(appPacket{src: app, dst: srv.addr, payload: []byte{byte(i)}})
	}
	close(gate)
	for i := range 3 {
		if got, _ := srv.next(t); got[0] != byte(i) {
			t.Fatalf("datagram %d is %d", i, got[0])
		}
	}
}

// A dialer that refuses makes the application hear of it.
func TestUDPRefusedDialer(t *testing.T) {
	refused := errors.New("no UDP here")
	for _, inline := range []bool{false, true} {
		t.Run(fmt.Sprintf("inline=%v", inline), func(t *testing.T) {
			d := &hostDialer{fail: func(int) error { return refused }}
			r := newRig(t, rigConfig{dialer: d, udp: datagram.UDPConfig{Inline: inline}})
			app, dst := families[0].app, netip.MustParseAddrPort("192.0.2.7:443")
			for range 10 { // and is not asked again for each datagram
				r.send(appPacket{src: app, dst: dst, payload: []byte("hello")})
				e := parseICMPError(t, r.link.next(t).data)
				if e.typ != 3 || e.code != 13 || e.from != dst.Addr() || e.src != app || e.dst != dst {
					t.Errorf("error %+v", e)
				}
			}
			if n := d.opened(); n > 3 && !inline { // where that is dear
				t.Errorf("the dialer was asked %d times", n)
			}
			if st := r.udp.Stats(); inline && st.Sessions != 0 {
				t.Errorf("%d sessions live on", st.Sessions)
			}
		})
	}
}

func TestUDPLimit(t *testing.T) {
	const limit = 5
	r := newRig(t, rigConfig{flows: flow.NewRegistry(flow.Config{MaxFlows: limit})})
	srv := listen(t, "127.0.0.1")
	addr := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(families[0].app.Addr(), uint16(1000+i))
	}
	ports := map[int]netip.AddrPort{}
	for i := range limit {
		r.send(appPacket{src: addr(i), dst: srv.addr, payload: []byte{byte(i)}})
		_, ports[i] = srv.next(t)
	}
	// The first is used again, so that the second is the oldest.
	r.send(appPacket{src: addr(0), dst: srv.addr, payload: []byte{0}})
	srv.next(t)
	r.send(appPacket{src: addr(limit), dst: srv.addr, payload: []byte{limit}})
	srv.next(t)
	if st := r.udp.Stats(); st.Sessions != limit || st.Evicted != 1 || st.Refused != 0 {
		t.Errorf("stats %+v", st)
	}
	r.send(appPacket{src: addr(0), dst: srv.addr, payload: []byte{0}})
	if _, from := srv.next(t); from != ports[0] {
		t.Error("the session that was used last was evicted")
	}
	r.send(appPacket{src: addr(1), dst: srv.addr, payload: []byte{0}})
	if _, from := srv.next(t); from == ports[1] {
		t.Error("the least recently used session was not evicted")
	}
}

// TestUDPKill ends a session through the registry.
func TestUDPKill(t *testing.T) {
	r := newRig(t, rigConfig{})
	srv := listen(t, "127.0.0.1")
	app := families[0].app
	r.send(appPacket{src: app, dst: srv.addr, payload: []byte("x")})
	_, before := srv.next(t)
	for _, f := range r.flows.Flows() {
		if f.Up != 1 {
			t.Errorf("%d bytes up, want 1", f.Up)
		}
		r.flows.Kill(f.ID)
	}
	if n := r.flows.Len(); n != 0 {
		t.Fatalf("%d flows after kill", n)
	}
	r.send(appPacket{src: app, dst: srv.addr, payload: []byte("x")})
	if _, after := srv.next(t); after == before {
		t.Error("the mapping survived")
	}
}

var _ netstack.PacketHandler = (*datagram.UDP)(nil)

// writeTrain sends b as datagrams of seg bytes in one call (UDP_SEGMENT).
func (s *server) writeTrain(t testing.TB, b []byte, seg int, dst netip.AddrPort) {
	t.Helper()
	oob := make([]byte, unix.CmsgSpace(2))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
	h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(oob[unix.CmsgLen(0):], uint16(seg))
	if _, _, err := s.WriteMsgUDPAddrPort(b, oob, dst); err != nil {
		t.Fatal(err)
	}
}

// bytesChunks yields b in pieces of n bytes.
func bytesChunks(b []byte, n int) iter.Seq[[]byte] { return slices.Chunk(b, n) }
