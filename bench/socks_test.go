//go:build linux

package bench_test

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"netstackd/internal/flow"
	"netstackd/socks"
)

// nowhere dials what isn't there: the handshake alone is measured.
type nowhere struct{}

func (nowhere) DialContext(context.Context, string, string) (net.Conn, error) {
	c, other := net.Pipe()
	other.Close()
	return c, nil
}

func (nowhere) ListenPacket(context.Context, string, string) (net.PacketConn, error) {
	return nil, errors.ErrUnsupported
}

func (nowhere) Listen(context.Context, string, string) (net.Listener, error) {
	return nil, errors.ErrUnsupported
}

// closer is a relay that carries nothing.
type closer struct{}

func (closer) Join(f socks.Flow, inbound, outbound net.Conn) {
	inbound.Close()
	outbound.Close()
	f.Close()
}

// BenchmarkSOCKSHandshake connects, shakes hands and sees the end: beside a
// listener that only accepts and closes.
func BenchmarkSOCKSHandshake(b *testing.B) {
	b.Run("none", func(b *testing.B) {
		ln := listen(b)
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				c.Close()
			}
		}()
		for b.Loop() {
			c, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			if _, err := c.Read(make([]byte, 1)); err != io.EOF {
				b.Fatal(err)
			}
			c.Close()
		}
	})
	b.Run("connect", func(b *testing.B) {
		ctx, cancel := context.WithCancel(context.Background())
		flows := flow.NewRegistry(flow.Config{})
		s := socks.NewServer(socks.Config{
			Dialer: func(*socks.Request) socks.Dialer { return nowhere{} },
			Relay:  closer{},
			Open: func(r *socks.Request, kill func()) (socks.Flow, error) {
				return flows.OpenPending(flow.Meta{Network: "tcp", Source: r.Source, Dest: r.Dest.AddrPort()}, kill)
			},
		})
		ln := listen(b)
		var serving sync.WaitGroup
		serving.Go(func() { _ = s.Serve(ctx, ln) })
		defer serving.Wait()
		defer cancel()
		b.ReportAllocs()
		var buf [16]byte
		for b.Loop() {
			c, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			exchange(b, c, []byte{5, 1, 0}, buf[:2])
			exchange(b, c, []byte{5, 1, 0, 1, 192, 0, 2, 1, 0, 80}, buf[:10])
			if _, err := c.Read(buf[:1]); err != io.EOF {
				b.Fatal(err)
			}
			c.Close()
		}
	})
}

func exchange(b *testing.B, c net.Conn, request, reply []byte) {
	if _, err := c.Write(request); err != nil {
		b.Fatal(err)
	}
	if _, err := io.ReadFull(c, reply); err != nil || reply[1] != 0 {
		b.Fatal(reply, err)
	}
}
