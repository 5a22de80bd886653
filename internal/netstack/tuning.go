package netstack

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// TCPConfig tunes the stack's side of the connections with applications. The
// other side of each is a local kernel, microseconds away, that loses nothing.
type TCPConfig struct {
	// CongestionControl is "cubic" or "reno"; "" = cubic.
	CongestionControl string
	// NoSACK leaves selective acknowledgements out (RFC 2018).
	NoSACK bool
	// RACK finds losses by time, and probes for those of a window's tail (RFC
	// 8985). Without SACK it does nothing.
	RACK bool
	// ReceiveBuffer and SendBuffer are the most that one connection's buffers
	// grow to, in bytes; 0 = 4 MiB each.
	ReceiveBuffer, SendBuffer int
}

const (
	defaultBuffer = 4 << 20
	minBuffer     = 4 << 10
	initialBuffer = 1 << 20

	// maxInFlight is gVisor's limit on requests; ours is the flow registry's.
	maxInFlight = 1 << 30
)

// receiveBuffer is what a connection's receive buffer begins with.
func (c *TCPConfig) receiveBuffer() int {
	return min(initialBuffer, orDefault(c.ReceiveBuffer, defaultBuffer))
}

func orDefault(n, def int) int {
	if n > 0 {
		return n
	}
	return def
}

func (s *Stack) tune(c TCPConfig) error {
	cc := tcpip.CongestionControlOption("cubic")
	if c.CongestionControl != "" {
		cc = tcpip.CongestionControlOption(c.CongestionControl)
	}
	rcv := orDefault(c.ReceiveBuffer, defaultBuffer)
	snd := orDefault(c.SendBuffer, defaultBuffer)
	sack := tcpip.TCPSACKEnabled(!c.NoSACK)
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	// RACK and tail loss probes take the scheduler's delays for losses, since
	// round trips into the TUN are shorter than those: a busy machine would see
	// its windows collapse. A TUN loses next to nothing, and SACK finds that.
	recovery := tcpip.TCPRecovery(0)
	if c.RACK {
		recovery = tcpip.TCPRACKLossDetection
	}
	wait := tcpip.TCPTimeWaitTimeoutOption(timeWait)
	for _, o := range []tcpip.SettableTransportProtocolOption{
		&cc, &sack, &moderate, &wait, &recovery,
		&tcpip.TCPReceiveBufferSizeRangeOption{Min: minBuffer, Default: min(initialBuffer, rcv), Max: rcv},
		&tcpip.TCPSendBufferSizeRangeOption{Min: minBuffer, Default: min(initialBuffer, snd), Max: snd},
	} {
		if err := s.gs.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("netstack: tcp option %T: %w", o, Errno(err))
		}
	}
	return nil
}
