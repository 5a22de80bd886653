package netstack

import (
	"net"
	"net/netip"
	"os"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// UDPConn is a UDP socket of the stack that talks to one peer. It reads that
// peer's datagrams only, and hears of its ICMP errors.
type UDPConn struct {
	*PacketConn
	peer net.Addr
}

var _ net.Conn = (*UDPConn)(nil)

func (s *Stack) dialUDP(to netip.AddrPort) (net.Conn, error) {
	c, err := s.ListenUDP(netip.AddrPortFrom(s.Own(to.Addr()), 0))
	if err != nil {
		return nil, err
	}
	if terr := c.ep.Connect(fullAddress(to)); terr != nil {
		c.Close()
		return nil, Errno(terr)
	}
	return &UDPConn{c, net.UDPAddrFromAddrPort(to)}, nil
}

// Read implements net.Conn: one datagram, cut to b.
func (c *UDPConn) Read(b []byte) (int, error) {
	n, _, err := c.ReadFrom(b)
	return n, err
}

// Write implements net.Conn: b is one datagram.
func (c *UDPConn) Write(b []byte) (int, error) {
	if c.closed.Load() {
		return 0, c.opError("write", net.ErrClosed)
	}
	select {
	case <-c.write.wait():
		return 0, c.opError("write", os.ErrDeadlineExceeded)
	default:
	}
	p := slicePayload(b)
	n, terr := c.ep.Write(&p, tcpip.WriteOptions{Atomic: true})
	if terr != nil {
		return int(n), c.opError("write", Errno(terr))
	}
	return int(n), nil
}

// RemoteAddr implements net.Conn.
func (c *UDPConn) RemoteAddr() net.Addr { return c.peer }
