package netstack_test

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"netstackd/internal/netstack"
	"netstackd/tun/tuntest"
)

func listenUDP(t testing.TB, s *netstack.Stack, at netip.Addr) *netstack.PacketConn {
	t.Helper()
	c, err := s.ListenUDP(netip.AddrPortFrom(at, 0))
	if err != nil {
		t.Fatal(err)
	}
	deadline(t, c)
	t.Cleanup(func() { c.Close() })
	return c
}

// Datagrams of every size pass between two stacks, in fragments where needed.
func TestPacketConnSizes(t *testing.T) {
	for _, plain := range []bool{false, true} {
		app, own := pair(t, tuntest.Config{Plain: plain}, netstack.Config{})
		for i, ends := range [][2]netip.Addr{{appV4.Addr(), ownV4.Addr()}, {appV6.Addr(), ownV6.Addr()}} {
			a, b := listenUDP(t, app, ends[0]), listenUDP(t, own, ends[1])
			most := []int{65507, 65527}[i]
			buf := make([]byte, 70000)
			for _, size := range []int{0, 1, 1472, 1473, 9000, most} {
				payload := bytes.Repeat([]byte{byte(size)}, size)
				if n, err := a.WriteTo(payload, b.LocalAddr()); n != size || err != nil {
					t.Fatalf("wrote %d of %d bytes: %v", n, size, err)
				}
				n, from, err := b.ReadFrom(buf)
				if err != nil || !bytes.Equal(buf[:n], payload) || from.String() != a.LocalAddr().String() {
					t.Fatalf("read %d of %d bytes from %v: %v", n, size, from, err)
				}
			}
			if _, err := a.WriteTo(make([]byte, most+1), b.LocalAddr()); !errors.Is(err, syscall.EMSGSIZE) {
				t.Errorf("%d bytes: %v", most+1, err)
			}
			// Longer than the buffer: cut.
			a.WriteTo([]byte("abcdef"), b.LocalAddr())
			if n, _, err := b.ReadFrom(buf[:3]); n != 3 || err != nil || string(buf[:3]) != "abc" {
				t.Errorf("read %q: %v", buf[:n], err)
			}
		}
	}
}

func TestPacketConnForeign(t *testing.T) {
	rec := newRecorder()
	app, _ := pair(t, tuntest.Config{}, netstack.Config{Packets: rec})
	c, err := app.ListenPacket(t.Context(), nil, "udp", "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(foreignV4, 53))); err != nil {
		t.Fatal(err)
	}
	p := recv(t, rec.packets)
	if p.Src != appV4.Addr() || p.Dst != foreignV4 || string(p.payload) != "x" {
		t.Fatalf("got %+v", p.Packet)
	}
	if _, err := c.WriteTo([]byte("x"), &net.TCPAddr{}); err == nil {
		t.Fatal("wrote to a TCP address")
	}
}

func TestDialUDP(t *testing.T) {
	app, own := pair(t, tuntest.Config{}, netstack.Config{})
	for _, at := range []netip.Addr{ownV4.Addr(), ownV6.Addr()} {
		server, other := listenUDP(t, own, at), listenUDP(t, own, at)
		c, err := app.DialContext(t.Context(), nil, "udp", server.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		deadline(t, c)
		if c.RemoteAddr().String() != server.LocalAddr().String() {
			t.Errorf("peer %s", c.RemoteAddr())
		}
		c.Write([]byte("question"))
		b := make([]byte, 100)
		n, from, err := server.ReadFrom(b)
		if err != nil || string(b[:n]) != "question" || from.String() != c.LocalAddr().String() {
			t.Fatalf("read %q from %v, %v", b[:n], from, err)
		}
		if n, err := c.Write(nil); n != 0 || err != nil {
			t.Errorf("wrote %d bytes of nothing: %v", n, err)
		}
		if n, _, err := server.ReadFrom(b); n != 0 || err != nil {
			t.Errorf("read %d bytes of nothing: %v", n, err)
		}
		other.WriteTo([]byte("not yours"), from)
		server.WriteTo([]byte("answer"), from)
		if n, err := c.Read(b); err != nil || string(b[:n]) != "answer" {
			t.Fatalf("read %q, %v", b[:n], err)
		}
		server.Close()
		c.Write([]byte("anybody?"))
		if _, err := c.Read(b); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("read: %v", err)
		}
		c.SetWriteDeadline(time.Unix(1, 0))
		if _, err := c.Write(b); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: %v", err)
		}
		c.Close()
		if _, err := c.Write(b); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write: %v", err)
		}
	}
	if _, err := app.DialContext(t.Context(), nil, "unix", "/"); err == nil {
		t.Error("dialed a Unix socket")
	}
}

func TestPacketConnDeadlines(t *testing.T) {
	app, own := pair(t, tuntest.Config{}, netstack.Config{})
	a, b := listenUDP(t, app, appV4.Addr()), listenUDP(t, own, ownV4.Addr())
	past := time.Unix(1, 0)
	b.SetReadDeadline(past)
	if _, _, err := b.ReadFrom(nil); !errors.Is(err, os.ErrDeadlineExceeded) || !err.(net.Error).Timeout() {
		t.Fatalf("read: %v", err)
	}
	b.SetReadDeadline(time.Time{})
	done := make(chan error, 1)
	go func() {
		_, _, err := b.ReadFrom(make([]byte, 1))
		done <- err
	}()
	runtime.Gosched()
	b.SetReadDeadline(past)
	isErr(t, recv(t, done), os.ErrDeadlineExceeded)
	a.SetWriteDeadline(past)
	if _, err := a.WriteTo([]byte("x"), b.LocalAddr()); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("write: %v", err)
	}
	a.SetDeadline(time.Now().Add(patience))
	b.SetDeadline(time.Now().Add(patience))
	a.WriteTo([]byte("x"), b.LocalAddr())
	if n, _, err := b.ReadFrom(make([]byte, 1)); n != 1 || err != nil {
		t.Fatalf("read %d: %v", n, err)
	}
}

func TestPacketConnClose(t *testing.T) {
	_, own := pair(t, tuntest.Config{}, netstack.Config{})
	c := listenUDP(t, own, ownV4.Addr())
	done := make(chan error, 4)
	for range cap(done) {
		go func() {
			_, _, err := c.ReadFrom(make([]byte, 1))
			done <- err
		}()
	}
	runtime.Gosched()
	for range 2 {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for range cap(done) {
		isErr(t, recv(t, done), net.ErrClosed)
	}
	if _, err := c.WriteTo([]byte("x"), c.LocalAddr()); !errors.Is(err, net.ErrClosed) {
		t.Fatalf("write: %v", err)
	}
	// The port is free again.
	again, err := own.ListenUDP(c.LocalAddr().(*net.UDPAddr).AddrPort())
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func TestListenRefusesForeignAddresses(t *testing.T) {
	_, own := alone(t, tuntest.Config{}, netstack.Config{})
	for _, at := range []string{"0.0.0.0:80", "[::]:80", "192.0.2.1:80"} {
		ap := netip.MustParseAddrPort(at)
		if c, err := own.ListenUDP(ap); err == nil {
			c.Close()
			t.Errorf("listens on udp %s", at)
		}
		if l, err := own.ListenTCP(ap); err == nil {
			l.Close()
			t.Errorf("listens on %s", at)
		}
	}
	// By host and port, unspecified means the stack's own.
	for network, want := range map[string]netip.Addr{"tcp": ownV4.Addr(), "tcp4": ownV4.Addr(), "tcp6": ownV6.Addr()} {
		l, err := own.Listen(t.Context(), nil, network, ":0")
		if err != nil {
			t.Fatal(err)
		}
		if got := l.Addr().(*net.TCPAddr).AddrPort(); got.Addr() != want || got.Port() == 0 {
			t.Errorf("%s: listens on %s", network, got)
		}
		l.Close()
	}
}
