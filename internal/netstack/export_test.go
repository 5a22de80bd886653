package netstack

import (
	"errors"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// ErrNoNet is what this system calls no network.
const ErrNoNet = errNoNet

// Deadline lets tests of the outside reach deadline.
type Deadline struct{ d deadline }

// Set is deadline.set.
func (d *Deadline) Set(t time.Time) { d.d.set(t) }

// Wait is deadline.wait.
func (d *Deadline) Wait() <-chan struct{} { return d.d.wait() }

// LargestBuffers returns what a connection's buffers grow to, as gVisor has it.
func (s *Stack) LargestBuffers() (receive, send int, err error) {
	var rcv tcpip.TCPReceiveBufferSizeRangeOption
	var snd tcpip.TCPSendBufferSizeRangeOption
	rerr := s.gs.TransportProtocolOption(tcp.ProtocolNumber, &rcv)
	serr := s.gs.TransportProtocolOption(tcp.ProtocolNumber, &snd)
	return rcv.Max, snd.Max, errors.Join(toErr(rerr), toErr(serr))
}

func toErr(err tcpip.Error) error {
	if err == nil {
		return nil
	}
	return Errno(err)
}

// SendBuffer returns the size of a connection's send buffer, as gVisor has it.
func (c *Conn) SendBuffer() int { return int(c.ep.SocketOptions().GetSendBufferSize()) }

// KeepsAlive reports whether a connection's idle peer is probed.
func (c *Conn) KeepsAlive() bool { return c.ep.SocketOptions().GetKeepAlive() }
