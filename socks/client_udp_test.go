package socks_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"netstackd/socks"
	"netstackd/socks/wire"
)

func TestClientUDP(t *testing.T) {
	_, e4 := udpEcho(t, "127.0.0.1:0")
	_, e6 := udpEcho(t, "[::1]:0")
	for name, d := range chains(t, local, socks.Config{Resolver: local}) {
		t.Run(name, func(t *testing.T) {
			pc, err := d.ListenPacket(t.Context(), "udp", "")
			if strings.Contains(name, "http") || strings.Contains(name, "socks4a") {
				if !errors.Is(err, errors.ErrUnsupported) {
					t.Fatalf("%v, want ErrUnsupported", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer pc.Close()
			if name == "password unasked" { // this server resolves names
				exchange(t, pc, wire.Addr{Name: "echo.test", Port: e4.Port()}, e4, []byte("named"))
			}
			exchange(t, pc, net.UDPAddrFromAddrPort(e4), e4, []byte("four"))
			exchange(t, pc, net.UDPAddrFromAddrPort(e6), e6, []byte("six"))
			exchange(t, pc, net.UDPAddrFromAddrPort(e4), e4, nil)
			if name == "none" {
				big := bytes.Repeat([]byte("x"), 65507-10)
				exchange(t, pc, net.UDPAddrFromAddrPort(e4), e4, big)
				if _, err := pc.WriteTo(make([]byte, 65528), net.UDPAddrFromAddrPort(e4)); !errors.Is(err, syscall.EMSGSIZE) {
					t.Errorf("an impossible datagram: %v, want EMSGSIZE", err)
				}
			}
			pc.SetReadDeadline(time.Now())
			if _, _, err := pc.ReadFrom(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("after the deadline: %v", err)
			}

			c, err := d.DialContext(t.Context(), "udp", e4.String())
			if err != nil {
				t.Fatal(err)
			}
			send(t, c, "connected")
			want(t, c, "connected")
			if c.RemoteAddr().String() != e4.String() {
				t.Errorf("RemoteAddr %v, want %v", c.RemoteAddr(), e4)
			}
			c.Close()
		})
	}
}

func exchange(t *testing.T, pc net.PacketConn, to net.Addr, from netip.AddrPort, payload []byte) {
	t.Helper()
	if _, err := pc.WriteTo(payload, to); err != nil {
		t.Fatal(err)
	}
	pc.SetReadDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, 65536)
	n, addr, err := pc.ReadFrom(b)
	if err != nil {
		t.Fatal(err)
	}
	if u, ok := addr.(*net.UDPAddr); !ok || addrPort(u) != from || !bytes.Equal(b[:n], payload) {
		t.Fatalf("%d bytes from %v, want %d from %v", n, addr, len(payload), from)
	}
}

// TestClientUDPEnds checks that the end of the TCP connection is the end of
// the association, and Close of our end.
func TestClientUDPEnds(t *testing.T) {
	p := start(t, local, socks.Config{})
	d := via(t, local, "socks5://"+p.addr)
	pc, err := d.ListenPacket(t.Context(), "udp", "")
	if err != nil {
		t.Fatal(err)
	}
	p.flows.Kill(p.flows.Flows()[0].ID)
	_, _, err = pc.ReadFrom(make([]byte, 10))
	var op *socks.OpError
	if !errors.As(err, &op) || !errors.Is(err, io.EOF) {
		t.Errorf("%v, want an OpError that wraps EOF", err)
	}
	pc.Close()
	pc, err = d.ListenPacket(t.Context(), "udp", "")
	if err != nil {
		t.Fatal(err)
	}
	go pc.Close()
	if _, _, err = pc.ReadFrom(make([]byte, 10)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v, want ErrClosed", err)
	}
	pc.Close()
	eventually(t, "the server's flows end", func() bool { return p.flows.Len() == 0 })
}

// TestClientUDPUnspecified has the server answer 0.0.0.0 as BND.ADDR.
func TestClientUDPUnspecified(t *testing.T) {
	relay := listenUDP(t, "127.0.0.1:0")
	bnd := netip.AddrPortFrom(netip.IPv4Unspecified(), addrPort(relay.LocalAddr()).Port())
	fake := serveTCP(t, "127.0.0.1:0", func(c net.Conn) {
		c.Read(make([]byte, 100))
		c.Write(wire.Response{Addr: wire.AddrFrom(bnd)}.Append(wire.AppendMethod(nil, 0)))
		io.Copy(io.Discard, c)
	})
	for _, host := range []string{fake, "echo.test:" + port(fake)} {
		pc, err := via(t, local, "socks5://"+host).ListenPacket(t.Context(), "udp", "")
		if err != nil {
			t.Fatal(err)
		}
		pc.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(1, 2, 3, 4), Port: 5})
		b := make([]byte, 100)
		relay.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, from, err := relay.ReadFromUDPAddrPort(b)
		if err != nil || string(b[:n]) != "\x00\x00\x00\x01\x01\x02\x03\x04\x00\x05x" {
			t.Fatalf("%q %v", b[:n], err)
		}
		// Garbage and fragments are skipped; what follows is read.
		relay.WriteToUDPAddrPort([]byte("junk"), from)
		relay.WriteToUDPAddrPort([]byte("\x00\x00\x01\x01\x01\x02\x03\x04\x00\x05frag"), from)
		relay.WriteToUDPAddrPort([]byte("\x00\x00\x00\x03\x01a\x00\x05name"), from)
		relay.WriteToUDPAddrPort([]byte("\x00\x00\x00\x01\x01\x02\x03\x04\x00\x05good"), from)
		pc.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, addr, err := pc.ReadFrom(b)
		if err != nil || string(b[:n]) != "good" || addr.String() != "1.2.3.4:5" {
			t.Fatalf("%q from %v, %v", b[:n], addr, err)
		}
		pc.Close()
	}
}
