package netcfg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// settle is how long the network must be quiet before a look at it is worth
// taking; settleMax bounds the wait when it never is.
const (
	settle    = 20 * time.Millisecond
	settleMax = 200 * time.Millisecond
)

// monitor reports that links, addresses, routes or rules have changed, and not what
// has changed: reading everything again is cheap, and stays right after an overrun
// (ENOBUFS).
type monitor struct{ f *os.File }

func openMonitor() (*monitor, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink monitor: %w", err)
	}
	var groups uint32
	for _, g := range []int{
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
		unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
	} {
		groups |= 1 << (g - 1)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("netlink monitor: bind: %w", err)
	}
	return &monitor{f: os.NewFile(uintptr(fd), "netlink")}, nil
}

// wait returns nil after a change, once the network has settled. It returns an
// error when ctx has ended or the monitor was closed.
func (m *monitor) wait(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { m.f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := m.read(ctx, time.Time{}); err != nil {
		return err
	}
	end := time.Now().Add(settleMax)
	for now := time.Now(); now.Before(end); now = time.Now() {
		err := m.read(ctx, now.Add(settle))
		if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// read takes one message, before the deadline.
func (m *monitor) read(ctx context.Context, deadline time.Time) error {
	if err := m.f.SetReadDeadline(deadline); err != nil {
		return err
	}
	// If ctx ends after this, its deadline replaces ours.
	if err := ctx.Err(); err != nil {
		return err
	}
	var buf [4096]byte // a longer message is cut, and was not to be read
	_, err := m.f.Read(buf[:])
	if errors.Is(err, unix.ENOBUFS) {
		return nil // changes were lost: still a change
	}
	return err
}

// Close ends wait.
func (m *monitor) Close() error { return m.f.Close() }
