package netstack

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"netstackd/internal/flow"
)

const backlog = 1024

// Listener accepts connections to one of the stack's own addresses.
type Listener struct {
	s      *Stack
	ep     tcpip.Endpoint
	wq     waiter.Queue
	addr   net.Addr
	ready  chan struct{}
	entry  waiter.Entry
	done   chan struct{}
	closed sync.Once
}

// ListenTCP listens on an address of the stack. The address must be one of its
// own: a wildcard would answer for every destination there is.
func (s *Stack) ListenTCP(at netip.AddrPort) (*Listener, error) {
	if !s.isOwn(tcpipAddr(at.Addr())) {
		return nil, fmt.Errorf("netstack: listen %s: not an address of the stack", at)
	}
	l := &Listener{s: s, done: make(chan struct{})}
	ep, terr := s.gs.NewEndpoint(tcp.ProtocolNumber, netProto(at.Addr()), &l.wq)
	if terr != nil {
		return nil, fmt.Errorf("netstack: listen %s: %w", at, Errno(terr))
	}
	l.ep = ep
	// As the net package does: connections of an earlier listener may live on.
	ep.SocketOptions().SetReuseAddress(true)
	terr = ep.Bind(fullAddress(at))
	if terr == nil {
		l.entry, l.ready = waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp)
		l.wq.EventRegister(&l.entry)
		terr = ep.Listen(backlog)
	}
	if terr != nil {
		ep.Close()
		return nil, fmt.Errorf("netstack: listen %s: %w", at, Errno(terr))
	}
	local, _ := ep.GetLocalAddress()
	l.addr = net.TCPAddrFromAddrPort(addrPort(local))
	return l, nil
}

// Listen implements the third verb of dialing: one that waits for the peer,
// as SOCKS BIND does. The address is host:port; an empty or unspecified host
// means the stack's own address.
func (s *Stack) Listen(_ context.Context, _ *flow.Meta, network, address string) (net.Listener, error) {
	at, err := s.localAddress(network, address)
	if err != nil {
		return nil, err
	}
	return s.ListenTCP(at)
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		select {
		case <-l.done:
			return nil, l.opError(net.ErrClosed)
		default:
		}
		ep, wq, terr := l.ep.Accept(nil)
		if terr == nil {
			// One signal may stand for several connections, and several may wait.
			select {
			case l.ready <- struct{}{}:
			default:
			}
			return l.s.newConn(ep, wq), nil
		}
		if _, closed := terr.(*tcpip.ErrInvalidEndpointState); closed { // with its stack
			return nil, l.opError(net.ErrClosed)
		}
		if _, wait := terr.(*tcpip.ErrWouldBlock); !wait {
			select {
			case <-l.done:
				return nil, l.opError(net.ErrClosed)
			default:
				return nil, l.opError(Errno(terr))
			}
		}
		select {
		case <-l.ready:
		case <-l.done:
		}
	}
}

func (l *Listener) opError(err error) error {
	return &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: err}
}

// Close implements net.Listener. Connections that were not accepted are reset.
func (l *Listener) Close() error {
	l.closed.Do(func() {
		close(l.done)
		l.ep.Close()
	})
	return nil
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return l.addr }
