//go:build linux

package bench_test

import (
	"context"
	"net"
	"sync"
	"testing"

	"netstackd/internal/epoll"
	"netstackd/internal/flow"
	"netstackd/internal/netstack"
	"netstackd/internal/relay"
	"netstackd/tun/tuntest"
)

// newRelay serves one until the benchmark ends.
func newRelay(b *testing.B) (*relay.Relay, *flow.Registry) {
	b.Helper()
	loop, err := epoll.New(0)
	if err != nil {
		b.Fatal(err)
	}
	r := relay.New(loop, relay.Config{})
	var serving sync.WaitGroup
	serving.Go(func() { _ = loop.Serve(context.Background()) })
	b.Cleanup(func() {
		r.Wait()
		loop.Close()
		serving.Wait()
	})
	return r, flow.NewRegistry(flow.Config{})
}

// BenchmarkRelay moves a stream through a relay, by what its two ends are. The
// application's writes and the server's reads are in the figure: "none" is
// without the relay.
func BenchmarkRelay(b *testing.B) {
	b.Run("none", func(b *testing.B) {
		ln := listen(b)
		stream(b, ln, func() (net.Conn, error) { return net.Dial("tcp", ln.Addr().String()) })
	})
	b.Run("socket to socket", func(b *testing.B) {
		r, flows := newRelay(b)
		server, proxy := listen(b), listen(b)
		go func() {
			if in, err := proxy.Accept(); err == nil {
				join(b, r, flows, in, server.Addr().String())
			}
		}()
		stream(b, server, func() (net.Conn, error) { return net.Dial("tcp", proxy.Addr().String()) })
	})
	b.Run("stack to socket", func(b *testing.B) {
		r, flows := newRelay(b)
		server := listen(b)
		app, _ := newStacks(b, tuntest.Config{MTU: 65000, Depth: 4096}, func(q *netstack.Request) {
			in, err := q.Accept(context.Background())
			if err != nil {
				b.Error(err)
				return
			}
			join(b, r, flows, in, server.Addr().String())
		})
		stream(b, server, func() (net.Conn, error) {
			return app.DialContext(context.Background(), nil, "tcp", "203.0.113.1:80")
		})
	})
}

func join(b *testing.B, r *relay.Relay, flows *flow.Registry, in net.Conn, to string) {
	out, err := net.Dial("tcp", to)
	if err != nil {
		b.Error(err)
		return
	}
	f, err := flows.Open(flow.Meta{Network: "tcp"}, nil)
	if err != nil {
		b.Error(err)
		return
	}
	r.Join(f, in, out)
}

func listen(b *testing.B) net.Listener {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { ln.Close() })
	return ln
}
