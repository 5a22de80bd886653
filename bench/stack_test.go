//go:build linux

package bench_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"

	"netstackd/internal/netstack"
	"netstackd/tun/tuntest"
)

// addresses of two stacks that face each other.
const (
	near = "198.18.0.1/30"
	far  = "198.18.0.2/30"
)

// newStacks joins two of them by an in-memory device.
func newStacks(b *testing.B, dev tuntest.Config, connect func(*netstack.Request)) (a, z *netstack.Stack) {
	b.Helper()
	one, two := tuntest.Pair(dev, dev)
	open := func(d *tuntest.Device, address string, connect func(*netstack.Request)) *netstack.Stack {
		s, err := netstack.New(d)
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Start(netstack.Config{Addresses: []netip.Prefix{netip.MustParsePrefix(address)}, Connect: connect}); err != nil {
			b.Fatal(err)
		}
		return s
	}
	a, z = open(one, near, nil), open(two, far, connect)
	b.Cleanup(func() {
		a.Close()
		z.Close()
	})
	return a, z
}

// BenchmarkStack moves a stream between two stacks, through two links and an
// in-memory device: a write and its share of everything else.
func BenchmarkStack(b *testing.B) {
	for _, dev := range []tuntest.Config{{MTU: 1500}, {MTU: 65000}, {MTU: 1500, Plain: true}, {MTU: 65000, Plain: true}} {
		b.Run(fmt.Sprintf("mtu=%d/offload=%v", dev.MTU, !dev.Plain), func(b *testing.B) {
			dev.Depth = 4096 // it is the kernel that may drop, not this
			a, z := newStacks(b, dev, nil)
			ln, err := z.ListenTCP(netip.MustParseAddrPort("198.18.0.2:80"))
			if err != nil {
				b.Fatal(err)
			}
			defer ln.Close()
			stream(b, ln, func() (net.Conn, error) {
				return a.DialContext(context.Background(), nil, "tcp", "198.18.0.2:80")
			})
		})
	}
}

const chunk = 64 << 10

// stream writes chunks to a connection whose other end is read as they come.
func stream(b *testing.B, ln net.Listener, dial func() (net.Conn, error)) {
	b.Helper()
	var reader sync.WaitGroup
	var got int64
	reader.Go(func() {
		c, err := ln.Accept()
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		for buf := make([]byte, chunk); ; {
			n, err := c.Read(buf)
			got += int64(n)
			if err != nil {
				return
			}
		}
	})
	c, err := dial()
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(chunk)
	b.ReportAllocs()
	buf, sent := make([]byte, chunk), int64(0)
	for b.Loop() {
		n, err := c.Write(buf)
		if err != nil {
			b.Fatal(err)
		}
		sent += int64(n)
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		b.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, c) // until the other end has had all of it, and closes
	c.Close()
	reader.Wait()
	if got != sent {
		b.Fatalf("%d bytes of %d arrived", got, sent)
	}
}
