package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// conn carries messages and fds over one end of a socketpair. Any goroutine
// may send; one at a time may receive.
type conn struct{ *net.UnixConn }

const (
	maxMessage = 64 << 10
	maxFds     = 253 // SCM_MAX_FD
)

// newPair returns our end and the file to give to the helper.
func newPair() (*conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "helper")
	ours, err := newConn(fds[0])
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// newConn takes over fd, which is one end.
func newConn(fd int) (*conn, error) {
	f := os.NewFile(uintptr(fd), "socketpair")
	defer f.Close() // FileConn has its own
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("not a Unix socket")
	}
	return &conn{u}, nil
}

// send sends m and copies of fds.
func (c *conn) send(m message, fds ...int) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	_, _, err = c.WriteMsgUnix(b, oob, nil)
	return err
}

// receive returns the next message and its fds, which are close-on-exec and
// the caller's. It returns io.EOF when the other end is gone.
func (c *conn) receive() (message, []int, error) {
	buf := make([]byte, maxMessage)
	oob := make([]byte, unix.CmsgSpace(maxFds*4))
	n, oobn, flags, _, err := c.ReadMsgUnix(buf, oob)
	if errors.Is(err, unix.ECONNRESET) { // it went with messages of ours unread
		err = io.EOF
	}
	if err != nil {
		return message{}, nil, err
	}
	fds, err := parseRights(oob[:oobn])
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errors.New("message cut short: the fd limit may be reached (ulimit -n)")
	}
	var m message
	if err == nil {
		err = json.Unmarshal(buf[:n], &m)
	}
	if err != nil {
		closeAll(fds)
		return message{}, nil, fmt.Errorf("message from the other process: %w", err)
	}
	return m, fds, nil
}

func parseRights(oob []byte) (fds []int, err error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		got, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
