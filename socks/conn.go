package socks

import (
	"io"
	"net"
	"net/netip"
	"time"

	"netstackd/socks/wire"
)

var (
	unspecified4 = netip.IPv4Unspecified()
	aLongTimeAgo = time.Unix(1, 0)
)

// Limits of closeAfterReply. A close while bytes are unread sends a reset, which may
// make the client discard the answer.
const (
	lingerTime  = time.Second
	lingerBytes = 256 << 10
)

// prefixed is a connection of which some bytes were read ahead. A relay that splices
// gets the parts from Unwrap.
type prefixed struct {
	net.Conn
	prefix []byte
}

// withPrefix returns c itself when nothing was read ahead. It owns prefix.
func withPrefix(c net.Conn, prefix []byte) net.Conn {
	if len(prefix) == 0 {
		return c
	}
	if p, ok := c.(*prefixed); ok {
		return &prefixed{Conn: p.Conn, prefix: append(prefix, p.prefix...)}
	}
	return &prefixed{Conn: c, prefix: prefix}
}

// Unwrap returns the bytes that were read ahead and the connection that the
// rest comes from.
func (p *prefixed) Unwrap() ([]byte, net.Conn) { return p.prefix, p.Conn }

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.prefix) > 0 && len(b) > 0 {
		n := copy(b, p.prefix)
		if p.prefix = p.prefix[n:]; len(p.prefix) == 0 {
			p.prefix = nil
		}
		return n, nil
	}
	return p.Conn.Read(b)
}

// WriteTo lets io.Copy use splice behind the prefix.
func (p *prefixed) WriteTo(w io.Writer) (int64, error) {
	var sum int64
	if len(p.prefix) > 0 {
		n, err := w.Write(p.prefix)
		p.prefix = p.prefix[n:]
		sum = int64(n)
		if err != nil {
			return sum, err
		}
		p.prefix = nil
	}
	n, err := io.Copy(w, p.Conn)
	return sum + n, err
}

// CloseWrite half-closes the connection below.
func (p *prefixed) CloseWrite() error { return closeWrite(p.Conn) }

// CloseRead shuts down reading of the connection below.
func (p *prefixed) CloseRead() error {
	if c, ok := p.Conn.(interface{ CloseRead() error }); ok {
		return c.CloseRead()
	}
	return nil
}

// SetLinger sets what Close does with unsent data of the connection below.
func (p *prefixed) SetLinger(sec int) error {
	if c, ok := p.Conn.(interface{ SetLinger(int) error }); ok {
		return c.SetLinger(sec)
	}
	return nil
}

func closeWrite(c net.Conn) error {
	if c, ok := c.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// abort closes c with a reset where it can.
func abort(c net.Conn) {
	switch c := c.(type) {
	case interface{ Reset() }: // a userspace stack's
		c.Reset()
	case interface{ SetLinger(int) error }:
		c.SetLinger(0)
	}
	c.Close()
}

// closeAfterReply closes c so that the last write arrives: it sends a FIN, and then
// reads and drops the client's bytes, within limits.
func closeAfterReply(c net.Conn) {
	defer c.Close()
	if closeWrite(c) != nil {
		return
	}
	c.SetReadDeadline(time.Now().Add(lingerTime))
	buf := handshakeBuffers.Get().(*[handshakeSize]byte)
	defer handshakeBuffers.Put(buf)
	for sum := 0; sum < lingerBytes; {
		n, err := c.Read(buf[:])
		if err != nil {
			return
		}
		sum += n
	}
}

// addrPort returns a's address and port, unmapped, or the zero AddrPort.
func addrPort(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		ap = a.AddrPort()
	case *net.UDPAddr:
		ap = a.AddrPort()
	case wire.Addr:
		ap = a.AddrPort()
	case nil:
		return ap
	default:
		ap, _ = netip.ParseAddrPort(a.String())
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
