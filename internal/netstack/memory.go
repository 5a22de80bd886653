package netstack

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// LimitBuffers makes bytes the most that each of the two buffers of connections
// to come grows to, within the stack's TCPConfig. Connections that are open
// follow Conn.SetBuffers. Call it after Start.
func (s *Stack) LimitBuffers(bytes int) {
	s.bufferLimit.Store(int64(bytes))
	s.setBuffers(min(bytes, s.cfg.TCP.ReceiveBuffer), min(bytes, s.cfg.TCP.SendBuffer))
}

// newConn makes an endpoint a Conn, within today's limits.
func (s *Stack) newConn(ep tcpip.Endpoint, wq *waiter.Queue) *Conn {
	c := &Conn{s: s, ep: ep, wq: wq}
	limit := int(s.bufferLimit.Load())
	c.setSendBuffer(int64(min(limit, s.cfg.TCP.SendBuffer)))
	c.SetBuffers(limit, limit)
	c.setKeepAlive(s.cfg.TCP.KeepAlive)
	return c
}

// SetBuffers sets the most bytes that each of the connection's two buffers
// holds, within the stack's TCPConfig. What is queued beyond it stays; the
// window that the application sees shrinks as it drains. It may not run during
// ReceiveFrom, which relies on the room that it found.
func (c *Conn) SetBuffers(receive, send int) {
	o := c.ep.SocketOptions()
	if size := int64(min(send, c.s.cfg.TCP.SendBuffer)); o.GetSendBufferSize() != size {
		c.setSendBuffer(size)
	}
	// Below the limit gVisor tunes the receive buffer, until its size is set.
	most := int64(min(receive, c.s.cfg.TCP.ReceiveBuffer))
	if size := o.GetReceiveBufferSize(); size > most || c.receiveCut && size != most {
		c.receiveCut = true
		o.SetReceiveBufferSize(most, true)
	}
}

// setSendBuffer turns gVisor's auto-tuning of the send buffer off, with its
// first call: that shrinks a buffer at any time, and an endpoint.Write that has
// read its payload drops what no longer fits.
func (c *Conn) setSendBuffer(size int64) {
	o := c.ep.SocketOptions()
	o.SetSendBufferSize(size, true)
	// An ACK that is processed concurrently may restore the old size. It holds the
	// endpoint's lock, and so does the end of the call above. Once the size is right
	// after that call, it stays right.
	for o.GetSendBufferSize() != size {
		o.SetSendBufferSize(size, true)
	}
}
