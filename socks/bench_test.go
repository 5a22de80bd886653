package socks_test

import (
	"fmt"
	"io"
	"net"
	"testing"

	"netstackd/socks"
	"netstackd/socks/wire"
)

// BenchmarkConnect makes one connection through the server, sends a request,
// reads the answer and closes: the ways differ in who speaks to the server.
func BenchmarkConnect(b *testing.B) {
	target := echo(b)
	p := start(b, local, socks.Config{})
	request := request5(b, wire.Connect, target)
	once := func(b *testing.B, c net.Conn) {
		if _, err := c.Write([]byte("ping")); err != nil {
			b.Fatal(err)
		}
		var buf [4]byte
		if _, err := io.ReadFull(c, buf[:]); err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
	b.Run("way=none", func(b *testing.B) {
		for b.Loop() {
			c, err := net.Dial("tcp", target)
			if err != nil {
				b.Fatal(err)
			}
			once(b, c)
		}
	})
	b.Run("way=serial", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			c, err := net.Dial("tcp", p.addr)
			if err != nil {
				b.Fatal(err)
			}
			var buf [10]byte
			c.Write([]byte("\x05\x01\x00"))
			io.ReadFull(c, buf[:2])
			io.WriteString(c, request)
			io.ReadFull(c, buf[:])
			once(b, c)
		}
	})
	for _, scheme := range []string{"socks5", "http"} {
		b.Run("way="+scheme+" client", func(b *testing.B) {
			b.ReportAllocs()
			d := via(b, local, scheme+"://"+p.addr)
			for b.Loop() {
				c, err := d.DialContext(b.Context(), "tcp", target)
				if err != nil {
					b.Fatal(err)
				}
				once(b, c)
			}
		})
	}
}

// BenchmarkUDP echoes datagrams, one at a time, through an association.
func BenchmarkUDP(b *testing.B) {
	_, addr := udpEcho(b, "127.0.0.1:0")
	p := start(b, local, socks.Config{})
	for _, size := range []int{100, 1200, 60000} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			pc, err := via(b, local, "socks5://"+p.addr).ListenPacket(b.Context(), "udp", "")
			if err != nil {
				b.Fatal(err)
			}
			defer pc.Close()
			to, buf := net.UDPAddrFromAddrPort(addr), make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := pc.WriteTo(buf, to); err != nil {
					b.Fatal(err)
				}
				if _, _, err := pc.ReadFrom(buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRequest parses a request and writes its answer.
func BenchmarkRequest(b *testing.B) {
	request := []byte(request5(b, wire.Connect, "10.0.0.7:80"))
	buf := make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		r, _, err := wire.ParseRequest(request)
		if err != nil {
			b.Fatal(err)
		}
		buf = wire.Response{Addr: r.Addr}.Append(buf[:0])
	}
}
