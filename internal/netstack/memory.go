package netstack

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// LimitBuffers makes bytes the most that each of a connection's two buffers
// grows to. Connections whose buffers have grown beyond it are cut back: the
// window that the application sees shrinks as what is queued drains. What the
// stack's TCPConfig says is never exceeded. Call it after Start.
func (s *Stack) LimitBuffers(bytes int) {
	s.setBuffers(min(bytes, s.cfg.TCP.ReceiveBuffer), min(bytes, s.cfg.TCP.SendBuffer))
	limit := int64(bytes)
	if s.bufferLimit.Swap(limit) <= limit {
		return
	}
	s.connMu.Lock()
	conns := make([]*Conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.connMu.Unlock()
	for _, c := range conns {
		c.limitBuffers(limit)
	}
}

func (c *Conn) limitBuffers(limit int64) {
	o := c.ep.SocketOptions()
	if o.GetReceiveBufferSize() > limit {
		o.SetReceiveBufferSize(limit, true)
	}
	// What a ReceiveFrom under way has taken from its socket must find room.
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	if o.GetSendBufferSize() > limit {
		o.SetSendBufferSize(limit, true)
	}
}

// newConn makes an endpoint a Conn, within today's limits.
func (s *Stack) newConn(ep tcpip.Endpoint, wq *waiter.Queue) *Conn {
	c := &Conn{s: s, ep: ep, wq: wq}
	s.connMu.Lock()
	s.conns[c] = struct{}{}
	s.connMu.Unlock()
	c.limitBuffers(s.bufferLimit.Load())
	return c
}

// forget takes a closed connection out of the stack's list.
func (s *Stack) forget(c *Conn) {
	s.connMu.Lock()
	delete(s.conns, c)
	s.connMu.Unlock()
}
