package netstack

import (
	"fmt"
	"net"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// setKeepAlive has the connection's peer probed while nothing is under way.
func (c *Conn) setKeepAlive(k net.KeepAliveConfig) {
	if !k.Enable {
		return
	}
	idle, interval := tcpip.KeepaliveIdleOption(k.Idle), tcpip.KeepaliveIntervalOption(k.Interval)
	c.ep.SetSockOpt(&idle) // none of these fails
	c.ep.SetSockOpt(&interval)
	c.ep.SetSockOptInt(tcpip.KeepaliveCountOption, k.Count)
	c.ep.SocketOptions().SetKeepAlive(true)
}

// boundRetries ends connections whose peer acknowledges nothing in about the
// time that keep-alive takes for idle ones. gVisor probes no peer that has yet
// to acknowledge something, and by itself gives up after a quarter of an hour.
// A peer whose window is closed acknowledges the probes of it, and so may
// stand still for as long as it likes, which a TCPUserTimeoutOption would end.
func (s *Stack) boundRetries(k net.KeepAliveConfig) error {
	longest := tcpip.TCPMaxRTOOption(max(k.Interval, tcp.MinRTO))
	retries := tcpip.TCPMaxRetriesOption(retriesWithin(k.Idle+time.Duration(k.Count)*k.Interval, time.Duration(longest)))
	for _, o := range []tcpip.SettableTransportProtocolOption{&longest, &retries} {
		if err := s.gs.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("netstack: tcp option %T: %w", o, Errno(err))
		}
	}
	return nil
}

// retriesWithin is how many retransmissions fit into a time, at least one, when
// the wait for an acknowledgement begins with the shortest there is and doubles
// up to the longest.
func retriesWithin(total, longest time.Duration) (n uint64) {
	wait := tcp.MinRTO
	for total -= wait; total >= min(2*wait, longest); n++ {
		wait = min(2*wait, longest)
		total -= wait
	}
	return max(n, 1)
}
