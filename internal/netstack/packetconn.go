package netstack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"netstackd/internal/flow"
)

// PacketConn is a UDP socket on one of the stack's own addresses.
type PacketConn struct {
	deadlines
	ep     tcpip.Endpoint
	wq     waiter.Queue
	addr   net.Addr
	done   chan struct{}
	closed atomic.Bool
}

var _ net.PacketConn = (*PacketConn)(nil)

// ListenUDP opens a UDP socket on an address of the stack.
func (s *Stack) ListenUDP(at netip.AddrPort) (*PacketConn, error) {
	if !s.isOwn(tcpipAddr(at.Addr())) {
		return nil, fmt.Errorf("netstack: listen udp %s: not an address of the stack", at)
	}
	c := &PacketConn{done: make(chan struct{})}
	ep, terr := s.gs.NewEndpoint(udp.ProtocolNumber, netProto(at.Addr()), &c.wq)
	if terr != nil {
		return nil, fmt.Errorf("netstack: listen udp %s: %w", at, Errno(terr))
	}
	if terr = ep.Bind(fullAddress(at)); terr != nil {
		ep.Close()
		return nil, fmt.Errorf("netstack: listen udp %s: %w", at, Errno(terr))
	}
	c.ep = ep
	local, _ := ep.GetLocalAddress()
	c.addr = net.UDPAddrFromAddrPort(addrPort(local))
	return c, nil
}

// ListenPacket implements the second verb of dialing: an unconnected UDP
// socket whose datagrams leave through the TUN.
func (s *Stack) ListenPacket(_ context.Context, _ *flow.Meta, network, address string) (net.PacketConn, error) {
	at, err := s.localAddress(network, address)
	if err != nil {
		return nil, err
	}
	return s.ListenUDP(at)
}

// ReadFrom implements net.PacketConn. A datagram longer than b is cut.
func (c *PacketConn) ReadFrom(b []byte) (int, net.Addr, error) {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventErr | waiter.EventHUp)
	c.wq.EventRegister(&entry)
	defer c.wq.EventUnregister(&entry)
	expired := c.read.wait()
	for {
		if c.closed.Load() {
			return 0, nil, c.opError("read", net.ErrClosed)
		}
		select {
		case <-expired:
			return 0, nil, c.opError("read", os.ErrDeadlineExceeded)
		default:
		}
		w := tcpip.SliceWriter(b)
		res, terr := c.ep.Read(&w, tcpip.ReadOptions{NeedRemoteAddr: true})
		if terr == nil {
			return res.Count, net.UDPAddrFromAddrPort(addrPort(res.RemoteAddr)), nil
		}
		err := Errno(terr)
		if !errors.Is(err, errAgain) {
			return 0, nil, c.opError("read", err)
		}
		select {
		case <-ready:
		case <-c.done:
		case <-expired:
		}
	}
}

// WaitRead waits until a datagram can be read, so that a waiting reader needs no
// buffer yet. Its errors are ReadFrom's.
func (c *PacketConn) WaitRead() error {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventErr | waiter.EventHUp)
	c.wq.EventRegister(&entry)
	defer c.wq.EventUnregister(&entry)
	expired := c.read.wait()
	for c.ep.Readiness(waiter.ReadableEvents) == 0 {
		select {
		case <-ready:
		case <-c.done:
			return c.opError("read", net.ErrClosed)
		case <-expired:
			return c.opError("read", os.ErrDeadlineExceeded)
		}
	}
	return nil
}

// WriteTo implements net.PacketConn; addr is a *net.UDPAddr.
func (c *PacketConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	to, ok := addr.(*net.UDPAddr)
	if !ok {
		return 0, c.opError("write", &net.AddrError{Err: "not a UDP address", Addr: addr.String()})
	}
	if c.closed.Load() {
		return 0, c.opError("write", net.ErrClosed)
	}
	select {
	case <-c.write.wait():
		return 0, c.opError("write", os.ErrDeadlineExceeded)
	default:
	}
	dest := fullAddress(to.AddrPort())
	n, terr := c.ep.Write(bytes.NewReader(b), tcpip.WriteOptions{To: &dest, Atomic: true})
	if terr != nil {
		return int(n), c.opError("write", Errno(terr))
	}
	return int(n), nil
}

func (c *PacketConn) opError(op string, err error) error {
	if c.closed.Load() { // while the endpoint was at work
		err = net.ErrClosed
	}
	return &net.OpError{Op: op, Net: "udp", Source: c.addr, Err: err}
}

// Close implements net.PacketConn.
func (c *PacketConn) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		close(c.done)
		c.ep.Close()
	}
	return nil
}

// LocalAddr implements net.PacketConn.
func (c *PacketConn) LocalAddr() net.Addr { return c.addr }
