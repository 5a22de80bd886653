// Package sys has the system calls on sockets that the packages of this module
// share and that golang.org/x/sys/unix lacks, or has with an allocation for each
// call: batches of messages, control messages, socket addresses, the error
// queue, vectored writes, and closing with a reset.
package sys

import "net"

// CloseWithReset closes a connection with RST instead of FIN, where it can.
func CloseWithReset(c net.Conn) {
	switch c := c.(type) {
	case interface{ Reset() }: // the userspace stack's
		c.Reset()
	case interface{ SetLinger(seconds int) error }:
		_ = c.SetLinger(0) // socket(7)
	}
	c.Close()
}
