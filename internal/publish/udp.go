package publish

import (
	"context"
	"errors"
	"net"
	"os"
	"sync/atomic"
)

// udpPort is one published UDP port.
type udpPort struct {
	set   *sessions
	conn  *net.UDPConn
	port  uint16
	local bool // datagrams come with the local address that they were sent to

	inner atomic.Pointer[string] // the server's address, nil when it is not known
	quiet atomic.Int64           // until when, on set.now's clock, nothing is opened
}

func newUDPPort(set *sessions, c *net.UDPConn, port uint16) *udpPort {
	return &udpPort{set: set, conn: c, port: port}
}

// receive gives the clients' datagrams to their sessions until Close.
func (p *udpPort) receive(ctx context.Context) {
	var pause pause
	var oob [controlSpace]byte
	buf := make([]byte, maxDatagram)
	for {
		n, oobn, _, from, err := p.conn.ReadMsgUDPAddrPort(buf, oob[:])
		switch {
		case err == nil:
			pause = 0
			k := key{port: p, client: from}
			if p.local {
				k.local = parseLocal(oob[:oobn])
			}
			p.deliver(k, buf[:n])
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, net.ErrClosed):
			return
		default:
			if pause == 0 {
				p.set.cfg.Logger.Warn("a published port takes no datagrams for now", "err", err)
			}
			if !pause.wait(ctx) {
				return
			}
		}
	}
}

// deliver sends a datagram to the server, in a session that it makes unless the
// client has one.
func (p *udpPort) deliver(k key, b []byte) {
	for range 2 { // the first session may have ended
		s := p.set.get(k)
		if s == nil {
			if s = p.set.add(k); s == nil {
				break
			}
		}
		if s.send(b) {
			return
		}
	}
	p.set.dropped.Add(1)
}
