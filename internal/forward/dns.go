package forward

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"netstackd/internal/flow"
	"netstackd/internal/netstack"
)

// DNS takes what applications send to port 53 of any address, and gives it to
// one nameserver: datagrams as a net.PacketConn, connections as a net.Listener.
// The addresses that both give are *DNSAddr. Answers leave with the address that
// was asked as their source.
//
// Only what looks like a query is taken. Other datagrams to port 53, a tunnel's
// say, are carried on as to any other port.
type DNS struct {
	out     *outlet
	packets dnsPackets
	streams dnsStreams
	allow   func(network string, client, server netip.AddrPort) bool
	dropped atomic.Uint64
}

const (
	dnsQueries = 512  // datagrams that wait for the nameserver; more are dropped
	dnsConns   = 128  // connections that wait; more are refused
	dnsLongest = 4096 // bytes of a query over UDP
	dnsHeader  = 12   // bytes before the question (RFC 1035 §4.1.1)
)

// NewDNS returns a DNS that writes answers to l. Its nameserver must read. Allow
// says whose queries are answered; nil = everybody's. It may make system calls.
func NewDNS(l Link, allow func(network string, client, server netip.AddrPort) bool) *DNS {
	if allow == nil {
		allow = func(string, netip.AddrPort, netip.AddrPort) bool { return true }
	}
	d := &DNS{out: newOutlet(l), allow: allow}
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

// DNSAddr is the client of one query and the nameserver that it asked.
type DNSAddr struct {
	client, server netip.AddrPort
	hash           uint32
}

// Network implements net.Addr.
func (a *DNSAddr) Network() string { return "dns" }

// String implements net.Addr.
func (a *DNSAddr) String() string { return a.client.String() }

// AddrPort is the client.
func (a *DNSAddr) AddrPort() netip.AddrPort { return a.client }

// Asked is the nameserver that the client asked.
func (a *DNSAddr) Asked() netip.AddrPort { return a.server }

type dnsQuery struct {
	payload []byte
	from    *DNSAddr
}

// handle takes the n bytes of payload of a datagram to port 53, or those of a
// train, if they are queries.
func (d *DNS) handle(p *netstack.Packet, src, dst netip.AddrPort, n int) bool {
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
		case d.packets.queue <- dnsQuery{one, &DNSAddr{src, dst, p.Hash}}:
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

// connect gives a connection request to the nameserver, at once: the nameserver
// that was asked is dialed only if there is a query for it.
func (d *DNS) connect(ctx context.Context, r *netstack.Request, f *flow.Flow) error {
	m := f.Meta()
	if len(d.streams.queue) == cap(d.streams.queue) || !d.allow("tcp", m.Source, m.Dest) {
		r.Refuse()
		f.Close()
		return flow.ErrLimit
	}
	in, err := accept(ctx, r)
	if err == nil && !f.Establish() {
		in.Reset()
		err = errKilled
	}
	if err != nil {
		f.Close()
		return err
	}
	f.OnKill(func() { // it may wait for the nameserver
		in.Reset()
		f.Close()
	})
	c := &dnsConn{Conn: in, flow: f, from: &DNSAddr{client: m.Source, server: m.Dest}}
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
	from *DNSAddr
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

// ReadFrom implements net.PacketConn. Its address is a *DNSAddr.
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
	a, ok := to.(*DNSAddr)
	if !ok {
		return 0, &net.AddrError{Err: "not an address of ReadFrom", Addr: to.String()}
	}
	w := c.d.out.writer()
	w.bufs = append(w.bufs, b)
	c.d.out.udp(w, &datagrams{hash: a.hash, src: a.server, dst: a.client, size: len(b), seg: len(b)})
	c.d.out.release(w)
	return len(b), nil
}

// Close implements net.PacketConn.
func (c *dnsPackets) Close() error {
	c.closed.Do(func() { close(c.done) })
	return nil
}

// LocalAddr implements net.PacketConn: every address.
func (c *dnsPackets) LocalAddr() net.Addr { return &net.UDPAddr{Port: dnsPort} }

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
func (l *dnsStreams) Addr() net.Addr { return &net.TCPAddr{Port: dnsPort} }
