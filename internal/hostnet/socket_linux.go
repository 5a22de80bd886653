package hostnet

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// udpBuffer is what a UDP socket may queue each way, in bytes: a burst of 64 KB
// trains. The kernel counts memory when it is used, so an idle one is free.
const udpBuffer = 4 << 20

// control runs between socket(2) and bind(2) or connect(2).
func (d *Dialer) control(_, _ string, c syscall.RawConn) error { return control(c, d.keepOut) }

// keepOut marks and binds the socket as configured.
func (d *Dialer) keepOut(fd int) error {
	if d.cfg.Mark != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(d.cfg.Mark)); err != nil {
			return &SocketError{
				Field:   "Mark",
				Setting: fmt.Sprintf("mark %#x", d.cfg.Mark),
				Mend:    "marking sockets needs CAP_NET_ADMIN: run as root, or without a mark",
				Err:     err,
			}
		}
	}
	if d.cfg.Interface != "" {
		if err := unix.BindToDevice(fd, d.cfg.Interface); err != nil {
			e := &SocketError{Field: "Interface", Setting: "interface " + d.cfg.Interface, Err: err,
				Mend: "binding to an interface needs CAP_NET_RAW: run as root"}
			if errors.Is(err, unix.ENODEV) {
				e.Mend = "no such interface; `ip link` lists them"
			}
			return e
		}
	}
	return nil
}

// enlargeBuffers makes room for bursts.
func enlargeBuffers(c *net.UDPConn) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return rc.Control(packetBuffers)
}

func packetBuffers(socket uintptr) {
	fd := int(socket)
	// With CAP_NET_ADMIN past net.core.rmem_max, else up to it; a smaller
	// buffer drops sooner and is no reason to refuse the flow.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, udpBuffer) != nil {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, udpBuffer)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, udpBuffer) != nil {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, udpBuffer)
	}
}
