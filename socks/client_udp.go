package socks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"netstackd/socks/wire"
)

// ListenPacket makes a UDP association with the server: one mapping there, for
// any number of destinations. WriteTo takes a *net.UDPAddr, or an Addr whose
// name the server looks up; ReadFrom gives a *net.UDPAddr. It also has the
// AddrPort forms of both. The association ends with Close, or with the
// server's end of its TCP connection. Network and address are not used: the
// server binds for both families.
func (c *Client) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	p, err := c.associate(ctx)
	if err != nil {
		return nil, c.fail(wire.Associate, "", err)
	}
	return p, nil
}

func (c *Client) associate(ctx context.Context) (*packetConn, error) {
	// Zeros: our own address may be translated on the way to the server.
	ctl, _, bnd, err := c.request(ctx, wire.Request{Command: wire.Associate, Addr: wire.Addr{IP: unspecified4}})
	if err != nil {
		return nil, err
	}
	at := c.relayAddr(ctl, bnd)
	conn, err := c.next.DialContext(ctx, "udp", at.String())
	if err != nil {
		abort(ctl)
		return nil, fmt.Errorf("dial the upstream's relay: %w", err)
	}
	p := &packetConn{client: c, ctl: ctl, udp: conn, ended: make(chan struct{})}
	if sc, ok := conn.(*net.UDPConn); ok {
		p.raw, _ = sc.SyscallConn()
	}
	go p.watch()
	return p, nil
}

// relayAddr returns where to send datagrams. A server that answers with an
// unspecified address means its own.
func (c *Client) relayAddr(ctl net.Conn, bnd wire.Addr) wire.Addr {
	if bnd.IsName() && bnd.Name != "" || bnd.IP.IsValid() && !bnd.IP.IsUnspecified() {
		return bnd
	}
	server, _ := wire.ParseHostPort(c.address)
	if server.IsName() {
		// The connection's far end is the server, unless it is another upstream.
		if _, chained := c.next.(Upstream); !chained {
			if ap := addrPort(ctl.RemoteAddr()); ap.IsValid() {
				server = wire.AddrFrom(ap)
			}
		}
	}
	server.Port = bnd.Port
	return server
}

// packetConn is the client's end of an association.
type packetConn struct {
	client *Client
	ctl    net.Conn        // the association lives as long as it does
	udp    net.Conn        // connected to the server's relay port
	raw    syscall.RawConn // of udp; nil when it has none
	once   sync.Once
	mine   atomic.Bool   // Close was called
	ended  chan struct{} // closed when watch has returned
}

var errEnded = errors.New("the server ended the association")

// watch closes the socket when the server ends the association (RFC 1928 §7).
// Bytes on the connection are ignored.
func (p *packetConn) watch() {
	defer close(p.ended)
	io.Copy(io.Discard, p.ctl)
	p.shut()
}

func (p *packetConn) shut() {
	p.once.Do(func() {
		p.udp.Close()
		p.ctl.Close()
	})
}

// Close ends the association.
func (p *packetConn) Close() error {
	p.mine.Store(true)
	p.shut()
	<-p.ended
	return nil
}

// cause returns why the socket was closed.
func (p *packetConn) cause(err error) error {
	if errors.Is(err, net.ErrClosed) && !p.mine.Load() {
		return p.client.fail(wire.Associate, "", fmt.Errorf("%w: %w", errEnded, io.EOF))
	}
	return err
}

// ReadFrom reads one datagram, and gives where it came from as a *net.UDPAddr.
func (p *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := p.ReadFromUDPAddrPort(b)
	if err != nil {
		return n, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// ReadFromUDPAddrPort is ReadFrom without allocating. What does not fit b is
// lost. Datagrams that are fragments, or come from a name, are skipped.
func (p *packetConn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	for {
		buf, datagram, err := p.read()
		if err != nil {
			return 0, netip.AddrPort{}, p.cause(err)
		}
		from, payload, err := wire.ParseDatagram(datagram)
		if err != nil || from.IsName() {
			packetBuffers.Put(buf)
			continue
		}
		n := copy(b, payload)
		packetBuffers.Put(buf)
		return n, from.AddrPort(), nil
	}
}

// read returns one datagram and its buffer. Where the socket allows it, read holds
// no buffer while it waits.
func (p *packetConn) read() (buf *packetBuffer, datagram []byte, err error) {
	if p.raw == nil {
		buf = packetBuffers.Get().(*packetBuffer)
		n, err := p.udp.Read(buf[:])
		if err != nil {
			packetBuffers.Put(buf)
			return nil, nil, err
		}
		return buf, buf[:n], nil
	}
	var n int
	var inner error
	err = p.raw.Read(func(fd uintptr) bool {
		buf = packetBuffers.Get().(*packetBuffer)
		n, inner = readFD(fd, buf[:])
		if inner == nil {
			return true
		}
		packetBuffers.Put(buf)
		buf = nil
		return !is(inner, syscall.EAGAIN, syscall.EINTR)
	})
	if err == nil {
		err = inner
	}
	if err != nil {
		if buf != nil {
			packetBuffers.Put(buf)
		}
		return nil, nil, err
	}
	return buf, buf[:n], nil
}

// WaitRead waits until a datagram can be read, so that its caller needs no buffer
// while it waits.
func (p *packetConn) WaitRead() error {
	if p.raw == nil {
		return nil
	}
	if err := p.raw.Read(pending); err != nil {
		return p.cause(err)
	}
	return nil
}

// WriteTo sends one datagram to a *net.UDPAddr or an Addr.
func (p *packetConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	if a, ok := addr.(wire.Addr); ok {
		return p.writeTo(b, a)
	}
	ap := addrPort(addr)
	if !ap.IsValid() {
		return 0, p.client.fail(wire.Associate, addr.String(), wire.ErrAddrType)
	}
	return p.writeTo(b, wire.AddrFrom(ap))
}

// WriteToUDPAddrPort is WriteTo without allocating.
func (p *packetConn) WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error) {
	return p.writeTo(b, wire.AddrFrom(addr))
}

func (p *packetConn) writeTo(b []byte, to wire.Addr) (int, error) {
	buf := packetBuffers.Get().(*packetBuffer)
	defer packetBuffers.Put(buf)
	datagram, err := wire.AppendDatagramHeader(buf[:0], to)
	if err != nil {
		return 0, err
	}
	if len(datagram)+len(b) > maxUDP {
		return 0, p.client.fail(wire.Associate, to.String(), syscall.EMSGSIZE)
	}
	datagram = append(datagram, b...)
	if _, err := p.udp.Write(datagram); err != nil {
		return 0, p.cause(err)
	}
	return len(b), nil
}

// LocalAddr returns the address that datagrams to the server leave from.
func (p *packetConn) LocalAddr() net.Addr { return p.udp.LocalAddr() }

// SetDeadline sets both deadlines.
func (p *packetConn) SetDeadline(t time.Time) error { return p.udp.SetDeadline(t) }

// SetReadDeadline sets the deadline of reads.
func (p *packetConn) SetReadDeadline(t time.Time) error { return p.udp.SetReadDeadline(t) }

// SetWriteDeadline sets the deadline of writes.
func (p *packetConn) SetWriteDeadline(t time.Time) error { return p.udp.SetWriteDeadline(t) }

// dialUDP makes an association for one destination.
func (c *Client) dialUDP(ctx context.Context, address string) (net.Conn, error) {
	peer, err := destination(address)
	if err != nil {
		return nil, c.fail(wire.Associate, address, err)
	}
	p, err := c.associate(ctx)
	if err != nil {
		return nil, c.fail(wire.Associate, address, err)
	}
	return &packetPeer{packetConn: p, peer: peer}, nil
}

// packetPeer is an association that talks to one destination.
type packetPeer struct {
	*packetConn
	peer wire.Addr
}

// Read reads the next datagram of the destination. When that is a name, any
// sender's is taken, since only the server knows its address.
func (p *packetPeer) Read(b []byte) (int, error) {
	for {
		n, from, err := p.ReadFromUDPAddrPort(b)
		if err != nil || p.peer.IsName() || from == p.peer.AddrPort() {
			return n, err
		}
	}
}

// Write sends one datagram to the destination.
func (p *packetPeer) Write(b []byte) (int, error) { return p.writeTo(b, p.peer) }

// RemoteAddr returns the destination, an Addr when it is a name.
func (p *packetPeer) RemoteAddr() net.Addr {
	if p.peer.IsName() {
		return p.peer
	}
	return net.UDPAddrFromAddrPort(p.peer.AddrPort())
}
