package hostnet

import (
	"context"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"netstackd/internal/flow"
)

// dialAddr connects to a literal address. Package net would do as well, with a
// dozen more system calls, and a twentieth of what a short connection costs.
func (d *Dialer) dialAddr(ctx context.Context, m *flow.Meta, network string, dst netip.AddrPort) (net.Conn, error) {
	if end, ok := ctx.Deadline(); !ok || time.Until(end) > d.cfg.DialTimeout {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.cfg.DialTimeout)
		defer cancel()
	}
	var c *TCPConn
	var err error
	// The kernel may pick the destination port as the source port. The socket is
	// then connected to itself (simultaneous open, RFC 9293 §3.5): close and retry.
	for range 3 {
		if c, err = d.connect(ctx, m, dst); err != nil || c.local != c.remote {
			break
		}
		c.Close()
		err = os.NewSyscallError("connect", unix.ECONNREFUSED)
	}
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(dst), Err: err}
	}
	return c, nil
}

func (d *Dialer) connect(ctx context.Context, m *flow.Meta, dst netip.AddrPort) (*TCPConn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	family := unix.AF_INET
	if dst.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := d.prepare(fd); err != nil {
		unix.Close(fd)
		return nil, err
	}
	if m != nil && m.DSCP != 0 {
		setDSCP(fd, family, m.DSCP)
	}
	c := &TCPConn{fd: fd, remote: dst}
	sa := sockaddr(dst)
	err = connectOnce(fd, sa)
	if underWay(err) { // done already, where the destination is as near as this host
		err = connectOnce(fd, sa)
	}
	switch {
	case underWay(err):
		err = c.await(ctx, sa)
	case err == unix.EISCONN:
		err = nil
	default:
		err = os.NewSyscallError("connect", err)
	}
	if err == nil {
		c.local, err = localAddr(fd)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// await waits until connect(2), which is under way, has come to an end. Before
// that the runtime must not poll the socket: one that was never connected hangs
// up.
func (c *TCPConn) await(ctx context.Context, sa unix.Sockaddr) error {
	f, err := c.polled()
	if err != nil {
		return err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) })
	var cerr error
	err = raw.Write(func(fd uintptr) bool {
		// Asked again, it says how far it is: EALREADY, success, or the error.
		cerr = connectOnce(int(fd), sa)
		return !underWay(cerr)
	})
	if !stop() { // the deadline may be set at any time
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	if cerr != nil && cerr != unix.EISCONN {
		return os.NewSyscallError("connect", cerr)
	}
	return nil
}

func underWay(err error) bool { return err == unix.EINPROGRESS || err == unix.EALREADY }

func connectOnce(fd int, sa unix.Sockaddr) error {
	for {
		if err := unix.Connect(fd, sa); err != unix.EINTR {
			return err
		}
	}
}

// prepare sets the socket's options: those of the Dialer, no waiting for full
// segments, and keep-alive.
func (d *Dialer) prepare(fd int) error {
	if err := d.keepOut(fd); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	return keepAlive(fd, d.cfg.KeepAlive)
}

// setDSCP marks the connection's packets as the application marked its own. One
// whose mark is refused is carried all the same.
func setDSCP(fd, family int, dscp uint8) {
	if family == unix.AF_INET {
		_ = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TOS, int(dscp))
		return
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_TCLASS, int(dscp))
}

// keepAlive has the kernel probe the peer of an idle connection (tcp(7)), which
// counts in whole seconds.
func keepAlive(fd int, k net.KeepAliveConfig) error {
	if !k.Enable {
		return nil
	}
	seconds := func(d time.Duration) int { return max(1, int(d.Round(time.Second)/time.Second)) }
	for _, o := range [...]struct{ level, name, value int }{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, seconds(k.Idle)},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, seconds(k.Interval)},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, k.Count},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	// A peer that has yet to acknowledge something is not probed. The kernel
	// gives it up after 15 retransmissions (net.ipv4.tcp_retries2): no more than
	// the interval apart, where there is an option for it.
	longest := min(max(k.Interval, time.Second), 2*time.Minute)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, tcpRTOMaxMS, int(longest.Milliseconds()))
	return nil
}

// tcpRTOMaxMS is TCP_RTO_MAX_MS of Linux 6.15 (linux/tcp.h).
const tcpRTOMaxMS = 44

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func localAddr(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, os.NewSyscallError("getsockname", err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)), nil
	}
	return netip.AddrPort{}, os.NewSyscallError("getsockname", unix.EAFNOSUPPORT)
}
