package tun

import (
	"errors"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// line is one queue: an fd in the runtime's poller.
type line struct {
	file    *os.File
	raw     syscall.RawConn
	reader  reader
	written struct {
		_                      [128]byte // the reader's words change with each read
		packets, bytes, errors atomic.Uint64
	}
}

// newLine takes over fd, which must be attached to its interface already: the
// poller would see an unattached one as broken for good.
func newLine(fd int, name string) (*line, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, os.NewSyscallError("fcntl O_NONBLOCK", err)
	}
	l := &line{file: os.NewFile(uintptr(fd), "tun:"+name)}
	raw, err := l.file.SyscallConn()
	if err != nil {
		return nil, err
	}
	l.raw = raw
	l.reader.init()
	return l, nil
}

// format is what comes before each packet on the fd, the same on all queues.
type format struct {
	info bool // struct tun_pi, when the fd lacks IFF_NO_PI
	vnet bool // struct virtio_net_hdr
}

// size returns the bytes before each packet.
func (f format) size() int {
	n := 0
	if f.info {
		n += piLen
	}
	if f.vnet {
		n += HdrLen
	}
	return n
}

// piLen is the length of struct tun_pi (linux/if_tun.h): flags, then the ethertype.
const piLen = 4

// ioError is a failed read or write of a packet.
type ioError struct {
	op    string
	errno unix.Errno
}

func (e *ioError) Error() string {
	s := "tun: " + e.op + ": " + e.errno.Error()
	switch {
	case e.Is(ErrGone):
		s += ": " + ErrGone.Error()
	case e.errno == unix.EIO:
		s += ": the interface is down"
	}
	return s
}

func (e *ioError) Unwrap() error { return e.errno }

// Is makes the errno of a deleted interface match ErrGone.
func (e *ioError) Is(target error) bool {
	return target == ErrGone && (e.errno == unix.EBADFD || e.errno == unix.ENODEV)
}

var _ interface{ Is(error) bool } = (*ioError)(nil)

// isTemporary reports whether a call is to be made again at once.
func isTemporary(err error) bool { return errors.Is(err, unix.EINTR) }
