package sandbox_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"netstackd/internal/flow"
	"netstackd/internal/sandbox"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// fakeStack is the least that the far end of a TUN can be: every TCP connection
// is accepted and carried on by a dialer. It stands for the daemon here, where
// what is tested is the near end.
type fakeStack struct {
	tun  *os.File
	ep   *channel.Endpoint
	st   *stack.Stack
	dial sandbox.Dialer
	wg   sync.WaitGroup
}

// vnetHdr is the length of struct virtio_net_hdr; all zero, it asks nothing.
const vnetHdr = 10

func newFakeStack(fd, mtu int, dial sandbox.Dialer) *fakeStack {
	f := &fakeStack{
		tun:  os.NewFile(uintptr(fd), "tun"),
		ep:   channel.New(1024, uint32(mtu), ""),
		dial: dial,
	}
	f.st = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol},
	})
	if err := f.st.CreateNIC(1, f.ep); err != nil {
		panic(err)
	}
	f.st.SetPromiscuousMode(1, true)
	f.st.SetSpoofing(1, true)
	f.st.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: 1}, {Destination: header.IPv6EmptySubnet, NIC: 1}})
	f.st.SetTransportProtocolHandler(tcp.ProtocolNumber, tcp.NewForwarder(f.st, 0, 1024, f.accept).HandlePacket)
	return f
}

func (f *fakeStack) accept(r *tcp.ForwarderRequest) {
	id := r.ID()
	addr, _ := netip.AddrFromSlice(id.LocalAddress.AsSlice())
	dest := netip.AddrPortFrom(addr, id.LocalPort)
	f.wg.Go(func() {
		out, err := f.dial.DialContext(context.Background(), &flow.Meta{Network: "tcp", Dest: dest}, "tcp", dest.String())
		if err != nil {
			r.Complete(true)
			return
		}
		defer out.Close()
		var wq waiter.Queue
		ep, terr := r.CreateEndpoint(&wq)
		r.Complete(terr != nil)
		if terr != nil {
			return
		}
		in := gonet.NewTCPConn(&wq, ep)
		defer in.Close()
		f.wg.Go(func() {
			io.Copy(out, in)
			if c, ok := out.(interface{ CloseWrite() error }); ok {
				c.CloseWrite()
			}
		})
		io.Copy(in, out)
		in.CloseWrite()
	})
}

// serve carries packets until ctx ends.
func (f *fakeStack) serve(ctx context.Context) {
	defer context.AfterFunc(ctx, func() { f.tun.Close() })()
	f.wg.Go(func() {
		for pkt := f.ep.ReadContext(ctx); pkt != nil; pkt = f.ep.ReadContext(ctx) {
			v := pkt.ToView()
			f.tun.Write(append(make([]byte, vnetHdr), v.AsSlice()...))
			v.Release()
			pkt.DecRef()
		}
	})
	buf := make([]byte, 1<<16)
	for {
		n, err := f.tun.Read(buf)
		if err != nil {
			return
		}
		if n <= vnetHdr {
			continue
		}
		protocol := tcpip.NetworkProtocolNumber(header.IPv4ProtocolNumber)
		if buf[vnetHdr]>>4 == 6 {
			protocol = header.IPv6ProtocolNumber
		}
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(buf[vnetHdr:n])})
		f.ep.InjectInbound(protocol, pkt)
		pkt.DecRef()
	}
}

// hostDialer dials from where the daemon is: always the same address, if it has
// one, or none.
type hostDialer struct {
	net.Dialer
	to     string
	refuse bool
}

func (d *hostDialer) DialContext(ctx context.Context, _ *flow.Meta, network, address string) (net.Conn, error) {
	if d.refuse {
		return nil, syscall.ECONNREFUSED
	}
	if d.to != "" {
		address = d.to
	}
	return d.Dialer.DialContext(ctx, network, address)
}

func (d *hostDialer) ListenPacket(ctx context.Context, _ *flow.Meta, network, address string) (net.PacketConn, error) {
	return new(net.ListenConfig).ListenPacket(ctx, network, address)
}

func (d *hostDialer) Listen(ctx context.Context, _ *flow.Meta, network, address string) (net.Listener, error) {
	return new(net.ListenConfig).Listen(ctx, network, address)
}
