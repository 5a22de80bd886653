package bench

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// The load uses plain blocking sockets, each on a thread of its own that waits
// in the kernel: no poller and no scheduler stand between it and what it
// measures.

// ioTimeout ends a read, a write or a connect that would wait for ever on a
// path that doesn't work.
const ioTimeout = 10 * time.Second

func newTCP(timeout time.Duration) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	setTimeout(fd, timeout)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	return fd, nil
}

func setTimeout(fd int, d time.Duration) {
	tv := unix.NsecToTimeval(d.Nanoseconds())
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv)
}

func sockaddr(a netip.AddrPort) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}

func listenTCP(port uint16) (int, error) {
	fd, err := newTCP(0)
	if err != nil {
		return -1, err
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Port: int(port)})
	}
	if err == nil {
		err = unix.Listen(fd, 4096)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("listen on port %d: %w", port, err)
	}
	return fd, nil
}

// acceptTCP waits for a connection.
func acceptTCP(fd int) (int, error) {
	var c int
	err := retry(func() (err error) {
		c, _, err = unix.Accept4(fd, unix.SOCK_CLOEXEC)
		return err
	})
	if err == nil {
		_ = unix.SetsockoptInt(c, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	return c, err
}

// retry repeats a system call that a signal of the Go runtime interrupted.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// readSome is read(2), with io.EOF.
func readSome(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

func readFull(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := readSome(fd, b)
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func writeFull(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err != nil && err != unix.EINTR {
			return err
		}
		b = b[max(n, 0):]
	}
	return nil
}

// stream makes an io.ReadWriter of a socket.
type stream int

func (s stream) Read(b []byte) (int, error) { return readSome(int(s), b) }

func (s stream) Write(b []byte) (int, error) {
	if err := writeFull(int(s), b); err != nil {
		return 0, err
	}
	return len(b), nil
}
