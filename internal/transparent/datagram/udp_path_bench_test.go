package datagram_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/ipv4"

	"netstackd/internal/epoll"
	"netstackd/internal/flow"
	"netstackd/internal/hostnet"
	"netstackd/internal/netstack"
	"netstackd/internal/testnet"
	"netstackd/internal/transparent/datagram"
	"netstackd/tun"
)

// BenchmarkIntegrationUDPPath counts echoes of 1,200 bytes between two hosts:
// routed by the kernel, pumped through a TUN by the bare system calls, and
// carried by the whole path from the TUN to the sockets. One operation is one
// echo. The three share the machine with the client and the server.
func BenchmarkIntegrationUDPPath(b *testing.B) {
	n := testnet.New(b)
	n.A.Run(b, "ip", "rule", "add", "not", "fwmark", "77", "lookup", "77")
	dst := netip.AddrPortFrom(testnet.Dest(testnet.IPv4, 1), 7777)
	srv := n.B.ListenPacket(b, "udp4", dst.String())
	_ = srv.SetReadBuffer(8 << 20)
	go serveEcho(srv) // ends when the test closes srv
	for _, load := range []struct{ flows, window int }{{1, 1}, {16, 8}} {
		for _, path := range []struct {
			name string
			run  func(*testing.B, *testnet.Network)
		}{{"kernel", nil}, {"pump", runPump}, {"netstackd", runPath}} {
			b.Run(fmt.Sprintf("flows=%d/window=%d/%s", load.flows, load.window, path.name), func(b *testing.B) {
				if path.run != nil {
					path.run(b, n)
				}
				benchEchoes(b, n.A, dst, load.flows, load.window)
			})
		}
	}
}

// routeInto makes a TUN the way out of A: all but marked packets to B's networks go into it.
func routeInto(b *testing.B, n *testnet.Network, name string) {
	n.A.Run(b, "ip", "link", "set", name, "mtu", "65000", "up")
	n.A.Run(b, "ip", "addr", "add", "198.18.0.1/30", "dev", name)
	n.A.Run(b, "ip", "route", "add", testnet.DestPrefix(testnet.IPv4).String(), "dev", name, "table", "77")
}

func runPump(b *testing.B, n *testnet.Network) {
	opened, done := make(chan *pump), make(chan error)
	go func() {
		done <- n.A.Do(func() error {
			p, err := openPump("fwdpump", 77)
			if err != nil {
				close(opened)
				return err
			}
			opened <- p
			return p.run()
		})
	}()
	p := <-opened
	if p == nil {
		b.Fatal(<-done)
	}
	b.Cleanup(func() {
		p.stop()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	routeInto(b, n, "fwdpump")
}

// markedDialer opens sockets that are kept out of the TUN.
type markedDialer struct {
	host *testnet.Host
	d    *hostnet.Dialer
}

func (d markedDialer) ListenPacket(ctx context.Context, m *flow.Meta, network, address string) (c net.PacketConn, err error) {
	err = d.host.Do(func() error {
		c, err = d.d.ListenPacket(ctx, m, network, address)
		return err
	})
	return c, err
}

func runPath(b *testing.B, n *testnet.Network) {
	var dev *tun.Device
	if err := n.A.Do(func() (err error) {
		dev, err = tun.Open(tun.Config{Name: "fwdpath", Queues: 1, MTU: 65000})
		return err
	}); err != nil {
		b.Fatal(err)
	}
	stack, err := netstack.New(dev)
	if err != nil {
		b.Fatal(err)
	}
	loop, err := epoll.New(0)
	if err != nil {
		b.Fatal(err)
	}
	d := markedDialer{n.A, hostnet.New(hostnet.Config{Mark: 77})}
	udp := datagram.NewUDP(stack.Link(), d, loop, flow.NewRegistry(flow.Config{}), datagram.UDPConfig{Inline: true})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = loop.Serve(ctx) })
	wg.Go(func() { _ = udp.Serve(ctx) })
	if err := stack.Start(netstack.Config{
		Addresses: []netip.Prefix{netip.MustParsePrefix("198.18.0.2/30")},
		Packets:   &datagram.Packets{UDP: udp},
	}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		stack.Close()
		cancel()
		wg.Wait()
	})
	routeInto(b, n, "fwdpath")
}

// serveEcho sends back what comes until c is closed.
func serveEcho(c *net.UDPConn) {
	p := ipv4.NewPacketConn(c)
	in, out := make([]ipv4.Message, 64), make([]ipv4.Message, 64)
	for i := range in {
		in[i].Buffers = [][]byte{make([]byte, 2048)}
	}
	for {
		n, err := p.ReadBatch(in, 0)
		if err != nil {
			return
		}
		for i := range n {
			out[i] = ipv4.Message{Buffers: [][]byte{in[i].Buffers[0][:in[i].N]}, Addr: in[i].Addr}
		}
		for off := 0; off < n; {
			k, err := p.WriteBatch(out[off:n], 0)
			if err != nil {
				break
			}
			off += k
		}
	}
}

// benchEchoes keeps window datagrams under way on each of the flows.
func benchEchoes(b *testing.B, h *testnet.Host, dst netip.AddrPort, flows, window int) {
	const size = 1200
	conns := make([]*net.UDPConn, flows)
	for i := range conns {
		c, err := h.Dial(new(net.Dialer), "udp4", dst.String())
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		conns[i] = c.(*net.UDPConn)
	}
	var lost atomic.Int64
	left := atomic.Int64{}
	left.Store(int64(b.N))
	b.SetBytes(size)
	b.ResetTimer()
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Go(func() {
			p := ipv4.NewPacketConn(c)
			out, in := make([]ipv4.Message, window), make([]ipv4.Message, window)
			for i := range out {
				out[i].Buffers = [][]byte{make([]byte, size)}
				in[i].Buffers = [][]byte{make([]byte, 2048)}
			}
			for send := window; ; {
				for off := 0; off < send; {
					k, err := p.WriteBatch(out[off:send], 0)
					if err != nil {
						break
					}
					off += k
				}
				_ = c.SetReadDeadline(time.Now().Add(time.Second))
				n, err := p.ReadBatch(in, 0)
				if err != nil {
					lost.Add(int64(window))
					n = 0
				}
				if send = n; n == 0 {
					send = window
				}
				if left.Add(-int64(n)) <= 0 {
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(lost.Load()), "lost")
}
