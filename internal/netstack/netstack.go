// Package netstack is the userspace TCP/IP stack: gVisor's, with one NIC over
// a link.Endpoint, tuned for ending other hosts' connections.
//
// The stack has addresses of its own, on which it listens like any host. All
// other destinations are foreign: their TCP connections are offered to a
// handler as Requests, their UDP and ICMP packets to a PacketHandler, before
// any endpoint exists. The cost of a packet does not depend on the number of
// destinations: see type front.
//
// Conn, Listener and PacketConn are gVisor endpoints as net.Conn and so on,
// with errors that are errnos.
package netstack

import (
	"fmt"
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"netstackd/link"
	"netstackd/queue/gopool"
)

const nicID tcpip.NICID = 1

// Config describes a Stack.
type Config struct {
	// Addresses are the stack's own, each with the length of the prefix that it
	// shares with the host.
	Addresses []netip.Prefix
	// TCP tunes TCP. The zero value is what measured best.
	TCP TCPConfig
	// Packets takes foreign UDP and ICMP packets. Without it they are refused.
	Packets PacketHandler
	// Connect takes foreign TCP connections, each on a goroutine of its own.
	// Without it they are refused.
	Connect func(*Request)
}

type counters struct {
	malformed  atomic.Uint64
	unroutable atomic.Uint64
	overload   atomic.Uint64
}

// Stats counts what the stack dropped and did.
type Stats struct {
	Link        link.Stats
	Malformed   uint64 // packets with impossible headers or wrong checksums
	Unroutable  uint64 // packets from or to addresses that no flow can have
	Overload    uint64 // SYNs that came faster than they could be served
	Retransmits uint64 // TCP segments sent again into the TUN
	Suppressed  uint64 // ICMP errors that were not sent, by ErrorLimit
}

// Stack is a running TCP/IP stack.
type Stack struct {
	cfg      Config
	own      []tcpip.Address
	bcast    []tcpip.Address
	link     *link.Endpoint
	gs       *stack.Stack
	counters counters
	packets  sync.Pool // *Packet
	errors   *ErrorLimit

	synMu sync.Mutex
	syns  map[stack.TransportEndpointID][]byte // what an ICMP error would quote
	wg    sync.WaitGroup                       // handlers of requests, and SYNs that wait

	requests gopool.Pool // their handlers
	queue    synQueue
	started  time.Time

	closing atomic.Bool

	bufferLimit atomic.Int64 // of connections to come
}

// New returns a stack over dev, which it owns from then on. Nothing runs
// before Start.
func New(dev link.Device) (*Stack, error) { return NewTuned(dev, link.Config{}) }

// NewTuned is New with a link that is not the default one. Its Flush is the
// stack's own.
func NewTuned(dev link.Device, cfg link.Config) (*Stack, error) {
	s := &Stack{
		syns:   make(map[stack.TransportEndpointID][]byte),
		errors: NewErrorLimit(),
	}
	s.bufferLimit.Store(math.MaxInt)
	s.packets.New = func() any { return new(Packet) }
	cfg.Flush = s.flush
	ep, err := link.New(dev, cfg)
	if err != nil {
		return nil, err
	}
	s.link = ep
	return s, nil
}

// Start runs the stack. It is called once.
func (s *Stack) Start(cfg Config) error {
	cfg.TCP = cfg.TCP.withDefaults()
	s.cfg, s.started = cfg, time.Now()
	for _, p := range cfg.Addresses {
		s.own = append(s.own, tcpipAddr(p.Addr()))
		if sub := tcpipPrefix(p).Subnet(); p.Addr().Is4() && p.Bits() < 31 {
			s.bcast = append(s.bcast, sub.Broadcast(), sub.ID())
		}
	}
	s.gs = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{s.behindFront(ipv4.NewProtocol), s.behindFront(ipv6.NewProtocol)},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	if err := s.tune(cfg.TCP); err != nil {
		s.gs.Destroy()
		return err
	}
	s.handle()
	if err := s.attach(); err != nil {
		s.link.Attach(nil)
		s.gs.Destroy()
		return err
	}
	return nil
}

// handle installs what takes packets that no endpoint claims.
func (s *Stack) handle() {
	window := min(initialBuffer, s.cfg.TCP.ReceiveBuffer)
	fwd := tcp.NewForwarder(s.gs, window, maxInFlight, func(fr *tcp.ForwarderRequest) { s.requests.Go(func() { s.serveRequest(fr) }) })
	s.gs.SetTransportProtocolHandler(header.TCPProtocolNumber, func(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
		return s.handleSYN(fwd, id, pkt)
	})
	// These see what gVisor had to reassemble; the rest never gets that far.
	for _, proto := range []tcpip.TransportProtocolNumber{header.UDPProtocolNumber, header.ICMPv4ProtocolNumber, header.ICMPv6ProtocolNumber} {
		s.gs.SetTransportProtocolHandler(proto, func(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
			if s.isOwn(id.LocalAddress) {
				return false
			}
			if proto == header.UDPProtocolNumber {
				pkt.RXChecksumValidated = false // was of the fragments
				if !udpChecksumValid(pkt, id.RemoteAddress, id.LocalAddress) {
					s.counters.malformed.Add(1)
					return true
				}
			}
			// An echo request must never be answered by gVisor itself.
			return s.foreign(pkt, uint8(proto)) || proto != header.UDPProtocolNumber
		})
	}
}

// attach makes the NIC, with which packets begin to flow.
func (s *Stack) attach() error {
	if err := s.gs.CreateNIC(nicID, s.link); err != nil {
		return fmt.Errorf("netstack: create nic: %w", Errno(err))
	}
	// Both concern fragments and gVisor's own answers: see front.
	if err := s.gs.SetPromiscuousMode(nicID, true); err != nil {
		return fmt.Errorf("netstack: promiscuous mode: %w", Errno(err))
	}
	if err := s.gs.SetSpoofing(nicID, true); err != nil {
		return fmt.Errorf("netstack: spoofing: %w", Errno(err))
	}
	for _, p := range s.cfg.Addresses {
		err := s.gs.AddProtocolAddress(nicID, tcpip.ProtocolAddress{
			Protocol:          netProto(p.Addr()),
			AddressWithPrefix: tcpipPrefix(p),
		}, stack.AddressProperties{})
		if err != nil {
			return fmt.Errorf("netstack: address %s: %w", p, Errno(err))
		}
	}
	s.gs.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nicID},
		{Destination: header.IPv6EmptySubnet, NIC: nicID},
	})
	return nil
}

// Close stops the stack: ingress first, so that nothing new arrives, then
// every endpoint and the handlers of requests. It waits for all of them.
func (s *Stack) Close() error {
	s.link.Attach(nil)
	if s.gs != nil {
		s.closing.Store(true)
		s.gs.Close()
		s.join()
		s.requests.Wait()
		s.gs.Wait()
	}
	return nil
}

// join waits for the handlers of requests. A handler may have begun to complete a
// handshake after gVisor ended its endpoints; no answer will come to that one.
func (s *Stack) join() {
	joined := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(joined)
	}()
	for again := time.NewTicker(joinAgain); ; {
		select {
		case <-joined:
			again.Stop()
			return
		case <-again.C:
			for _, ep := range s.gs.RegisteredEndpoints() {
				ep.Abort()
			}
		}
	}
}

const joinAgain = 10 * time.Millisecond

// Done is closed when the device fails under the stack; Err says why.
func (s *Stack) Done() <-chan struct{} { return s.link.Done() }

// Err returns why Done is closed.
func (s *Stack) Err() error { return s.link.Err() }

// Link returns the link endpoint, for packets made elsewhere.
func (s *Stack) Link() *link.Endpoint { return s.link }

// Stats returns the stack's counters.
func (s *Stack) Stats() Stats {
	st := Stats{
		Link:       s.link.Stats(),
		Malformed:  s.counters.malformed.Load(),
		Unroutable: s.counters.unroutable.Load(),
		Overload:   s.counters.overload.Load(),
		Suppressed: s.errors.Suppressed(),
	}
	if s.gs != nil {
		st.Retransmits = s.gs.Stats().TCP.Retransmits.Value()
	}
	return st
}

func (s *Stack) uptime() time.Duration { return time.Since(s.started) }

// Own returns the stack's address of the family of like, or the zero Addr.
func (s *Stack) Own(like netip.Addr) netip.Addr {
	for _, p := range s.cfg.Addresses {
		if p.Addr().Is4() == like.Is4() {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

func (s *Stack) flush() {
	if s.cfg.Packets != nil {
		s.cfg.Packets.Flush()
	}
}

// The lists have an entry or two for each family, so a search beats a map.

func (s *Stack) isOwn(a tcpip.Address) bool       { return contains(s.own, a) }
func (s *Stack) isBroadcast(a tcpip.Address) bool { return contains(s.bcast, a) }

func contains(list []tcpip.Address, a tcpip.Address) bool {
	for _, b := range list {
		if a == b {
			return true
		}
	}
	return false
}

func tcpipPrefix(p netip.Prefix) tcpip.AddressWithPrefix {
	return tcpip.AddressWithPrefix{Address: tcpipAddr(p.Addr()), PrefixLen: p.Bits()}
}
