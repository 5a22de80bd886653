package netstack

import (
	"fmt"
	"net"

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
	// grow to, in bytes; 0 = 8 MiB and 2 MiB. What the peer may have under way
	// is half of the former.
	ReceiveBuffer, SendBuffer int
	// KeepAlive finds peers that vanished: by probes while a connection is idle,
	// and in as much time by retransmissions while it has something to send.
	KeepAlive net.KeepAliveConfig
}

const (
	defaultReceiveBuffer = 8 << 20
	defaultSendBuffer    = 2 << 20
	minBuffer            = 4 << 10
	initialBuffer        = 1 << 20

	// maxInFlight is gVisor's limit on requests; ours is the flow registry's.
	maxInFlight = 1 << 30
)

func (c TCPConfig) withDefaults() TCPConfig {
	if c.CongestionControl == "" {
		c.CongestionControl = "cubic"
	}
	if c.ReceiveBuffer <= 0 {
		c.ReceiveBuffer = defaultReceiveBuffer
	}
	if c.SendBuffer <= 0 {
		c.SendBuffer = defaultSendBuffer
	}
	return c
}

// LargestBuffer is the most that any buffer grows to, in bytes.
func (c TCPConfig) LargestBuffer() int {
	c = c.withDefaults()
	return max(c.ReceiveBuffer, c.SendBuffer)
}

func (s *Stack) tune(c TCPConfig) error {
	cc := tcpip.CongestionControlOption(c.CongestionControl)
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
	} {
		if err := s.gs.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("netstack: tcp option %T: %w", o, Errno(err))
		}
	}
	if c.KeepAlive.Enable {
		if err := s.boundRetries(c.KeepAlive); err != nil {
			return err
		}
	}
	s.setBuffers(c.ReceiveBuffer, c.SendBuffer)
	return nil
}

// setBuffers sets the most that buffers grow to.
func (s *Stack) setBuffers(receive, send int) {
	// Neither call fails for sizes with Min <= Default <= Max.
	s.gs.SetTransportProtocolOption(tcp.ProtocolNumber,
		&tcpip.TCPReceiveBufferSizeRangeOption{Min: minBuffer, Default: min(initialBuffer, receive), Max: receive})
	s.gs.SetTransportProtocolOption(tcp.ProtocolNumber,
		&tcpip.TCPSendBufferSizeRangeOption{Min: minBuffer, Default: min(initialBuffer, send), Max: send})
}
