package sys

import "golang.org/x/sys/unix"

// ResetOnClose makes the close of a TCP socket send RST instead of FIN: it
// lingers for zero seconds (SO_LINGER in socket(7)).
func ResetOnClose(fd int) error {
	return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}
