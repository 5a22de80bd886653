package hostnet_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/net/nettest"

	"netstackd/internal/flow"
	"netstackd/internal/hostnet"
)

var meta = &flow.Meta{}

func TestConn(t *testing.T) {
	d := hostnet.New(hostnet.Config{})
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		l, err := d.Listen(t.Context(), meta, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, nil, nil, err
		}
		defer l.Close()
		if c1, err = d.DialContext(t.Context(), meta, "tcp", l.Addr().String()); err != nil {
			return nil, nil, nil, err
		}
		if c2, err = l.Accept(); err != nil {
			return nil, nil, nil, err
		}
		return c1, c2, func() { c1.Close(); c2.Close() }, nil
	})
}

func TestDialErrors(t *testing.T) {
	d := hostnet.New(hostnet.Config{NoIPv6: true})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		ctx              context.Context
		network, address string
		want             error
	}{
		{t.Context(), "tcp", l.Addr().String(), syscall.ECONNREFUSED},
		{t.Context(), "tcp", "[::1]:80", syscall.ENETUNREACH},
		{t.Context(), "tcp6", "localhost:80", syscall.ENETUNREACH},
		{t.Context(), "udp", "[2001:db8::1]:53", syscall.ENETUNREACH},
		{canceled, "tcp", "192.0.2.1:80", context.Canceled},
	} {
		conn, err := d.DialContext(c.ctx, meta, c.network, c.address)
		if err == nil {
			conn.Close()
		}
		if !errors.Is(err, c.want) {
			// net has its own error for a canceled dial
			if op, ok := errors.AsType[*net.OpError](err); ok && c.want == context.Canceled && op.Err.Error() == "operation was canceled" {
				continue
			}
			t.Errorf("%s %s: %v, want %v", c.network, c.address, err, c.want)
		}
	}
}

func TestDialTimeout(t *testing.T) {
	// A nameserver that never answers stands for any silence.
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	d := hostnet.New(hostnet.Config{DialTimeout: 50 * time.Millisecond, Nameservers: func() []netip.AddrPort {
		return []netip.AddrPort{netip.MustParseAddrPort(silent.LocalAddr().String())}
	}})
	_, err = d.DialContext(t.Context(), meta, "tcp", "nowhere.example:80")
	if ne, ok := errors.AsType[net.Error](err); !ok || !ne.Timeout() {
		t.Errorf("silence: %v", err)
	}
}

// serveDNS answers every name with 127.0.0.1 and ::1.
func serveDNS(t *testing.T) netip.AddrPort {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		c.Close()
		<-done
	})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response, m.Additionals = true, nil
			q := m.Questions[0]
			h := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, Type: q.Type, TTL: 60}
			switch q.Type {
			case dnsmessage.TypeA:
				m.Answers = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}}}}
			case dnsmessage.TypeAAAA:
				m.Answers = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.AAAAResource{AAAA: netip.IPv6Loopback().As16()}}}
			}
			b, err := m.Pack()
			if err == nil {
				c.WriteTo(b, from)
			}
		}
	}()
	return netip.MustParseAddrPort(c.LocalAddr().String())
}

// A name's addresses are raced: here only the IPv4 one has a listener.
func TestDialName(t *testing.T) {
	server := serveDNS(t)
	d := hostnet.New(hostnet.Config{Nameservers: func() []netip.AddrPort { return []netip.AddrPort{server} }})
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	c, err := d.DialContext(t.Context(), meta, "tcp", "server.example:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.RemoteAddr().String() != l.Addr().String() {
		t.Errorf("connected to %v", c.RemoteAddr())
	}
	if a, err := d.LookupNetIP(t.Context(), "ip", "server.example"); err != nil || len(a) != 2 {
		t.Errorf("LookupNetIP: %v, %v", a, err)
	}
	only4 := hostnet.New(hostnet.Config{NoIPv6: true, Nameservers: func() []netip.AddrPort { return []netip.AddrPort{server} }})
	if a, err := only4.LookupNetIP(t.Context(), "ip", "server.example"); err != nil || len(a) != 1 || !a[0].Unmap().Is4() {
		t.Errorf("LookupNetIP without IPv6: %v, %v", a, err)
	}
}

func TestListenPacket(t *testing.T) {
	d := hostnet.New(hostnet.Config{})
	for network, loopback := range map[string]string{"udp4": "127.0.0.1", "udp6": "::1", "udp": "127.0.0.1"} {
		a, err := d.ListenPacket(t.Context(), meta, network, "")
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		b, err := net.ListenPacket("udp", net.JoinHostPort(loopback, "0"))
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if _, err := a.WriteTo([]byte("hello"), b.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 10)
		n, from, err := b.ReadFrom(buf)
		if err != nil || string(buf[:n]) != "hello" {
			t.Fatalf("%q, %v", buf[:n], err)
		}
		if _, err := b.WriteTo(buf[:n], from); err != nil {
			t.Fatal(err)
		}
		if n, _, err = a.ReadFrom(buf); err != nil || string(buf[:n]) != "hello" {
			t.Fatalf("%q, %v", buf[:n], err)
		}
	}
}

// Refused datagrams leave nothing behind in a socket whose error queue is not
// read: it still hears after as many as would have filled its buffer.
func TestListenPacketRefused(t *testing.T) {
	closed, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	friend, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer friend.Close()
	c, err := hostnet.New(hostnet.Config{}).ListenPacket(t.Context(), meta, "udp", "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 30_000 {
		_, _ = c.WriteTo([]byte("x"), closed.LocalAddr())
	}
	port := c.LocalAddr().(*net.UDPAddr).Port
	if _, err := friend.WriteTo([]byte("hello"), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 10)
	n, _, err := c.ReadFrom(buf)
	for errors.Is(err, syscall.ECONNREFUSED) {
		n, _, err = c.ReadFrom(buf)
	}
	if err != nil || string(buf[:n]) != "hello" {
		t.Errorf("%q, %v", buf[:n], err)
	}
}

func BenchmarkDial(b *testing.B) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	d := hostnet.New(hostnet.Config{})
	b.ReportAllocs()
	for b.Loop() {
		c, err := d.DialContext(b.Context(), meta, "tcp", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		c.(interface{ SetLinger(int) error }).SetLinger(0)
		c.Close()
	}
}
