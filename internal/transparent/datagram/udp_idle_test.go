package datagram_test

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"netstackd/internal/flow"
	"netstackd/internal/transparent/datagram"
)

// memDialer opens sockets that exist in memory only, so that a test can run
// on a clock of its own.
type memDialer struct {
	conns chan *memConn
}

func (d *memDialer) ListenPacket(context.Context, *flow.Meta, string, string) (net.PacketConn, error) {
	c := &memConn{in: make(chan memDatagram), out: make(chan memDatagram, 256), closed: make(chan struct{})}
	d.conns <- c
	return c, nil
}

type memDatagram struct {
	addr    netip.AddrPort
	payload []byte
}

type memConn struct {
	net.PacketConn // the rest of the methods is not used
	in, out        chan memDatagram
	closed         chan struct{}
	once           sync.Once
}

func (c *memConn) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case d := <-c.in:
		return copy(b, d.payload), net.UDPAddrFromAddrPort(d.addr), nil
	case <-c.closed:
		return 0, nil, net.ErrClosed
	}
}

func (c *memConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	d := memDatagram{addr.(*net.UDPAddr).AddrPort(), append([]byte(nil), b...)}
	select {
	case c.out <- d:
		return len(b), nil
	case <-c.closed:
		return 0, net.ErrClosed
	}
}

func (c *memConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

// memRig is a UDP over a memDialer, for tests in a bubble.
type memRig struct {
	t     *testing.T
	link  *fakeLink
	udp   *datagram.UDP
	flows *flow.Registry
	conns chan *memConn
	app   netip.AddrPort
}

func inBubble(t *testing.T, cfg datagram.UDPConfig, f func(t *testing.T, r *memRig)) {
	synctest.Test(t, func(t *testing.T) {
		r := &memRig{
			t: t, link: newFakeLink(true, true, 1500), flows: flow.NewRegistry(flow.Config{}),
			conns: make(chan *memConn, 16), app: families[0].app,
		}
		r.udp = datagram.NewUDP(r.link, &memDialer{r.conns}, nil, r.flows, cfg)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.udp.Serve(ctx) }()
		f(t, r)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := r.flows.Len(); n != 0 {
			t.Errorf("%d flows left", n)
		}
	})
}

func (r *memRig) send(dst string, payload string) {
	a := appPacket{src: r.app, dst: netip.MustParseAddrPort(dst), payload: []byte(payload)}
	p := a.packet()
	r.udp.HandlePacket(p)
	p.Buf.DecRef()
	r.udp.Flush()
	synctest.Wait()
}

func (r *memRig) sessions(want int) {
	r.t.Helper()
	synctest.Wait()
	if n := r.udp.Stats().Sessions; n != want {
		r.t.Errorf("%d sessions after %v, want %d", n, time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)), want)
	}
}

func TestUDPExpiry(t *testing.T) {
	inBubble(t, datagram.UDPConfig{}, func(t *testing.T, r *memRig) {
		r.send("192.0.2.1:443", "x")
		time.Sleep(5*time.Minute - time.Second)
		r.sessions(1)
		r.send("192.0.2.1:443", "x")
		time.Sleep(5*time.Minute - time.Second)
		r.sessions(1)
		time.Sleep(3 * time.Second)
		r.sessions(0)
		if st := r.udp.Stats(); st.Expired != 1 || st.Up != 2 {
			t.Errorf("stats %+v", st)
		}
	})
}

// An answer counts as use.
func TestUDPExpiryInbound(t *testing.T) {
	inBubble(t, datagram.UDPConfig{Timeout: time.Minute}, func(t *testing.T, r *memRig) {
		r.send("192.0.2.1:443", "x")
		c := <-r.conns
		for range 10 {
			time.Sleep(50 * time.Second)
			c.in <- memDatagram{netip.MustParseAddrPort("192.0.2.1:443"), []byte("y")}
			r.link.answers(t, 1)
		}
		r.sessions(1)
		time.Sleep(62 * time.Second)
		r.sessions(0)
	})
}

func TestUDPExpiryDNS(t *testing.T) {
	inBubble(t, datagram.UDPConfig{}, func(t *testing.T, r *memRig) {
		r.send("192.0.2.1:53", "x")
		time.Sleep(9 * time.Second)
		r.sessions(1)
		time.Sleep(3 * time.Second)
		r.sessions(0)
		r.send("192.0.2.1:53", "x")
		r.send("192.0.2.1:54", "x") // not only DNS any more
		time.Sleep(4 * time.Minute)
		r.sessions(1)
	})
}

// Many sessions end on time whatever the order in which they were used.
func TestUDPExpiryOrder(t *testing.T) {
	inBubble(t, datagram.UDPConfig{Timeout: time.Minute}, func(t *testing.T, r *memRig) {
		base := r.app.Port()
		use := func(i int) {
			r.app = netip.AddrPortFrom(r.app.Addr(), base+uint16(i))
			r.send("192.0.2.1:443", "x")
		}
		for i := range 10 {
			use(i)
			time.Sleep(time.Second)
		}
		for i := 9; i >= 0; i -= 2 { // 9, 7, 5, 3, 1
			use(i)
			time.Sleep(time.Second)
		}
		time.Sleep(47 * time.Second) // it is 62 s since the first
		r.sessions(9)
		time.Sleep(9 * time.Second) // 71 s: those last used at 12, 13 and 14 remain
		r.sessions(3)
		time.Sleep(5 * time.Second)
		r.sessions(0)
	})
}

// An application's kernel that reports its port closed makes the session a
// short one, whatever keeps arriving; its next datagram makes it a long one.
func TestUDPExpiryClosedPort(t *testing.T) {
	inBubble(t, datagram.UDPConfig{}, func(t *testing.T, r *memRig) {
		h := datagram.Packets{UDP: r.udp}
		dst := netip.MustParseAddrPort("192.0.2.1:443")
		r.send(dst.String(), "x")
		c := <-r.conns
		refuse := func() {
			c.in <- memDatagram{dst, []byte("y")}
			quoted := r.link.next(t).data
			p := icmpPacket(r.app.Addr(), dst.Addr(), 3, 3, 0, quoted)
			if !h.HandlePacket(p) {
				t.Error("error not taken")
			}
			p.Buf.DecRef()
			synctest.Wait()
		}
		refuse()
		r.send(dst.String(), "again")
		time.Sleep(time.Minute)
		r.sessions(1)
		refuse()
		for range 6 {
			time.Sleep(2 * time.Second)
			select {
			case c.in <- memDatagram{dst, []byte("y")}:
			case <-c.closed:
			}
		}
		r.sessions(0)
	})
}

func TestUDPDrain(t *testing.T) {
	inBubble(t, datagram.UDPConfig{}, func(t *testing.T, r *memRig) {
		r.send("192.0.2.1:443", "x")
		time.Sleep(10 * time.Second)
		r.udp.Drain()
		r.sessions(0)
	})
}

// A full queue drops; it never blocks the delivery of packets.
func TestUDPQueueFull(t *testing.T) {
	inBubble(t, datagram.UDPConfig{}, func(t *testing.T, r *memRig) {
		r.send("192.0.2.1:443", "x")
		c := <-r.conns
		<-c.out
		const burst = 1000 // more than the conn and the session hold
		for range burst {
			r.send("192.0.2.1:443", "x")
		}
		st := r.udp.Stats()
		if st.DroppedQueue == 0 || st.DroppedQueue > burst-256-64 {
			t.Errorf("stats %+v", st)
		}
		for range burst - int(st.DroppedQueue) {
			<-c.out
		}
		r.sessions(1)
	})
}
