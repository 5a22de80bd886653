package datagram

import (
	"net"
	"time"

	"golang.org/x/sys/unix"

	"netstackd/internal/ippkt"
	"netstackd/internal/sys"
)

// udpSocket is the carrier of a UDP session over a host socket.
type udpSocket struct {
	hostSocket

	maxSeg   int           // longest segment that UDP_SEGMENT may have
	narrowed time.Duration // when maxSeg was lowered
}

func newUDPSocket(s *session, c *net.UDPConn) (carrier, error) {
	defer c.Close()
	k := &udpSocket{maxSeg: ippkt.MaxPacket}
	if err := k.adopt(s, c, k.run, k.quoted); err != nil {
		return nil, err
	}
	// Linux 5.0. Without it each datagram comes by itself, which is only slower.
	_ = unix.SetsockoptInt(k.fd, unix.SOL_UDP, unix.UDP_GRO, 1)
	return k, nil
}

// quoted is the application's datagram that a late error is about.
func (k *udpSocket) quoted(e *sys.QueuedError) (ippkt.Quote, bool) {
	return ippkt.QuoteUDP(k.s.src, e.Dst, len(e.Payload), e.Payload), e.Dst.IsValid()
}

// run is the session's task.
func (k *udpSocket) run() {
	k.serve(func() bool {
		r := k.s.set.scratch.receives.Get().(*receiveBatch)
		defer k.s.set.scratch.receives.Put(r)
		n, more := r.receive(&k.hostSocket)
		if n > 0 {
			k.s.deliver(r, n)
		}
		return more
	})
}
