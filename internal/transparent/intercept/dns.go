// Package intercept takes the DNS queries that applications send to port 53 of
// any address, over UDP and TCP, and gives them to one nameserver of ours.
package intercept

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"netstackd/internal/flow"
	"netstackd/internal/netstack"
	"netstackd/internal/transparent/outlet"
)

// DNS takes what applications send to port 53 of any address, and gives it to
// one nameserver: datagrams as a net.PacketConn, connections as a net.Listener.
// The addresses that both give are *Addr. Answers leave with the address that
// was asked as their source.
//
// Only datagrams that look like queries are taken. Other datagrams to port 53, such
// as those of a VPN, are forwarded like datagrams to any other port.
type DNS struct {
	out     *outlet.Outlet
	packets dnsPackets
	streams dnsStreams
	allow   func(network string, client, server netip.AddrPort) bool
	dropped atomic.Uint64
}

// Port is where DNS servers listen.
const Port = 53

const (
	dnsQueries = 512  // datagrams that wait for the nameserver; more are dropped
	dnsConns   = 128  // connections that wait; more are refused
	dnsLongest = 4096 // bytes of a query over UDP
	dnsHeader  = 12   // bytes before the question (RFC 1035 §4.1.1)
)

// NewDNS returns a DNS that writes answers to l. A nameserver must read from
// Packets and accept from Streams. Allow reports whether a client's query is
// answered; nil = always. It may make system calls.
func NewDNS(l outlet.Link, allow func(network string, client, server netip.AddrPort) bool) *DNS {
	if allow == nil {
		allow = func(string, netip.AddrPort, netip.AddrPort) bool { return true }
	}
	d := &DNS{out: outlet.New(l), allow: allow}
	d.packets = dnsPackets{d: d, queue: make(chan dnsQuery, dnsQueries), done: make(chan struct{})}
	d.streams = dnsStreams{queue: make(chan net.Conn, dnsConns), done: make(chan struct{})}
	return d
}

// Packets returns the datagrams. Its deadlines are not supported.
func (d *DNS) Packets() net.PacketConn { return &d.packets }

// Streams returns the connections.
func (d *DNS) Streams() net.Listener { return &d.streams }

// Dropped counts the datagrams that were dropped: too many waited, or they were
// not allowed.
func (d *DNS) Dropped() uint64 { return d.dropped.Load() }

// Addr is the client of one query and the nameserver that it asked.
type Addr struct {
	client, server netip.AddrPort
	hash           uint32
}

// Network implements net.Addr.
func (a *Addr) Network() string { return "dns" }

// String implements net.Addr.
func (a *Addr) String() string { return a.client.String() }

// AddrPort is the client.
func (a *Addr) AddrPort() netip.AddrPort { return a.client }

// Asked is the nameserver that the client asked.
func (a *Addr) Asked() netip.AddrPort { return a.server }

type dnsQuery struct {
	payload []byte
	from    *Addr
}

// TakeDatagram takes the n bytes of payload of a datagram to port 53, or those of a
// train, if they are queries.
func (d *DNS) TakeDatagram(p *netstack.Packet, src, dst netip.AddrPort, n int) bool {
	size := n
	if p.GSOSize > 0 {
		n, size = p.Buf.Data().Size(), int(p.GSOSize)
	}
	slices := p.AppendPayload(nil)
	if len(slices) == 0 || size > dnsLongest || !looksLikeQuery(slices[0]) {
		return false
	}
	payload := make([]byte, 0, n)
	for _, b := range slices {
		payload = append(payload, b[:min(len(b), n-len(payload))]...)
	}
	for len(payload) > 0 {
		one := payload[:min(size, len(payload))]
		payload = payload[len(one):]
		select {
		case d.packets.queue <- dnsQuery{one, &Addr{src, dst, p.Hash}}:
		default:
			d.dropped.Add(1)
		}
	}
	return true
}

// looksLikeQuery reads a header: a standard query with one question.
func looksLikeQuery(b []byte) bool {
	return len(b) >= dnsHeader && b[2]&0xf8 == 0 && binary.BigEndian.Uint16(b[4:]) == 1
}

// ErrRefused says that a client may not ask.
var ErrRefused = errors.New("intercept: the client's queries are not answered")

// Admits returns nil if a connection from client to server may be taken, ErrRefused
// if the client may not ask, or flow.ErrLimit if as many as can wait do so.
func (d *DNS) Admits(client, server netip.AddrPort) error {
	if len(d.streams.queue) == cap(d.streams.queue) {
		return flow.ErrLimit
	}
	if !d.allow("tcp", client, server) {
		return ErrRefused
	}
	return nil
}

// TakeStream gives an established connection to the nameserver, which closes the
// flow with it. The server that the client asked is not dialed: the nameserver
// does that if there is a query for it.
func (d *DNS) TakeStream(in *netstack.Conn, f *flow.Flow) error {
	f.OnKill(func() { // the connection may wait for the nameserver
		in.Reset()
		f.Close()
	})
	m := f.Meta()
	c := &dnsConn{Conn: in, flow: f, from: &Addr{client: m.Source, server: m.Dest}}
	if !d.streams.put(c) {
		c.Close()
		return net.ErrClosed
	}
	return nil
}

// dnsConn is a client's connection.
type dnsConn struct {
	net.Conn
	flow *flow.Flow
	from *Addr
}

func (c *dnsConn) RemoteAddr() net.Addr { return c.from }

func (c *dnsConn) Close() error {
	err := c.Conn.Close()
	c.flow.Close()
	return err
}

// dnsPackets is the net.PacketConn of the datagrams.
type dnsPackets struct {
	d      *DNS
	queue  chan dnsQuery
	done   chan struct{}
	closed sync.Once
}

// ReadFrom implements net.PacketConn. Its address is a *Addr.
func (c *dnsPackets) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		select {
		case q := <-c.queue:
			if !c.d.allow("udp", q.from.client, q.from.server) {
				c.d.dropped.Add(1)
				continue
			}
			return copy(b, q.payload), q.from, nil
		case <-c.done:
			return 0, nil, net.ErrClosed
		}
	}
}

// WriteTo implements net.PacketConn for an address that ReadFrom gave.
func (c *dnsPackets) WriteTo(b []byte, to net.Addr) (int, error) {
	a, ok := to.(*Addr)
	if !ok {
		return 0, &net.AddrError{Err: "not an address of ReadFrom", Addr: to.String()}
	}
	w := c.d.out.Writer()
	w.Bufs = append(w.Bufs, b)
	c.d.out.UDP(w, &outlet.Datagrams{Hash: a.hash, Src: a.server, Dst: a.client, Size: len(b), Seg: len(b)})
	c.d.out.Release(w)
	return len(b), nil
}

// Close implements net.PacketConn.
func (c *dnsPackets) Close() error {
	c.closed.Do(func() { close(c.done) })
	return nil
}

// LocalAddr implements net.PacketConn: every address.
func (c *dnsPackets) LocalAddr() net.Addr { return &net.UDPAddr{Port: Port} }

// SetDeadline implements net.PacketConn.
func (c *dnsPackets) SetDeadline(time.Time) error { return os.ErrNoDeadline }

// SetReadDeadline implements net.PacketConn.
func (c *dnsPackets) SetReadDeadline(time.Time) error { return os.ErrNoDeadline }

// SetWriteDeadline implements net.PacketConn.
func (c *dnsPackets) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

// dnsStreams is the net.Listener of the connections.
type dnsStreams struct {
	queue   chan net.Conn
	done    chan struct{}
	closed  sync.Once
	putting sync.RWMutex // held by each put; Close waits for them
}

// put queues a connection, once there is room. It reports false after Close: the
// connection is then the caller's to close.
func (l *dnsStreams) put(c net.Conn) bool {
	l.putting.RLock()
	defer l.putting.RUnlock()
	select {
	case <-l.done: // select prefers none of its cases
		return false
	default:
	}
	select {
	case l.queue <- c:
		return true
	case <-l.done:
		return false
	}
}

// Accept implements net.Listener.
func (l *dnsStreams) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. Connections that wait are closed.
func (l *dnsStreams) Close() error {
	l.closed.Do(func() {
		close(l.done)
		l.putting.Lock()
		defer l.putting.Unlock()
		for {
			select {
			case c := <-l.queue:
				c.Close()
			default:
				return
			}
		}
	})
	return nil
}

// Addr implements net.Listener: every address.
func (l *dnsStreams) Addr() net.Addr { return &net.TCPAddr{Port: Port} }
