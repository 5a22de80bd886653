package tun

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

var (
	errClosed    = fmt.Errorf("tun: %w", os.ErrClosed)
	errTruncated = fmt.Errorf("tun: read: %w", ErrTruncated)
)

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

// openError adds advice to an error of attach.
func openError(name string, err error) error {
	text := fmt.Errorf("tun: %w", err)
	if mend := openMend(name, err); mend != "" {
		text = fmt.Errorf("tun: %w: %s", err, mend)
	}
	switch {
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EINVAL):
		return &ConfigError{"Name", text}
	case errors.Is(err, unix.E2BIG):
		return &ConfigError{"Queues", text}
	}
	return text
}

func openMend(name string, err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		switch {
		case errors.Is(err, unix.ENOENT):
			return "load the driver with 'modprobe tun', or make the file with 'mkdir -p /dev/net && mknod -m 666 " + node + " c 10 200'; a container needs '--device " + node + "'"
		case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
			return "load the driver with 'modprobe tun'"
		case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
			return "run it as root or 'chmod 666 " + node + "'; a container needs '--device " + node + "'"
		}
		return ""
	}
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Sprintf("run it as root, or have root make the interface for you with 'ip tuntap add dev %s mode tun user %d multi_queue'; 'netstackd exec' needs no root", orAny(name), os.Getuid())
	case errors.Is(err, unix.EBUSY):
		return fmt.Sprintf("interface %s is in use by another process: stop that, or choose another name", name)
	case errors.Is(err, unix.EINVAL):
		return fmt.Sprintf("an interface %s that is no TUN exists: choose another name", name)
	case errors.Is(err, unix.ENOTTY):
		return node + " is not the TUN driver's: replace it with 'rm " + node + " && mknod -m 666 " + node + " c 10 200'"
	case errors.Is(err, unix.E2BIG):
		return "the kernel has no room for that many queues: give fewer"
	}
	return ""
}

// orAny is a placeholder for the name of an interface that the kernel names.
func orAny(name string) string {
	if name == "" {
		return "NAME"
	}
	return name
}

// adoptError says why fd can't be adopted.
func adoptError(fd int, err error) error {
	mend := ""
	switch {
	case errors.Is(err, unix.EBADF):
		mend = ": it isn't open here: whoever passes it on must clear its FD_CLOEXEC"
	case errors.Is(err, unix.EBADFD):
		mend = ": it has no interface: whoever opened " + node + " must make the TUNSETIFF ioctl before passing it on, and the interface must live"
	case errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		mend = ": it is no TUN: open " + node
	}
	return fmt.Errorf("tun: fd %d: ioctl TUNGETIFF: %w%s", fd, err, mend)
}
