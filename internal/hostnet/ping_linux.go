package hostnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// ListenPing opens a socket for echo requests of one family, "ip4" or "ip6".
// Where net.ipv4.ping_group_range allows it that is an unprivileged ping
// socket; else, with CAP_NET_RAW, a raw one.
func (d *Dialer) ListenPing(_ context.Context, family string) (*Ping, error) {
	domain, proto := unix.AF_INET, unix.IPPROTO_ICMP
	switch family {
	case "ip4":
	case "ip6":
		domain, proto = unix.AF_INET6, unix.IPPROTO_ICMPV6
		if d.cfg.NoIPv6 {
			return nil, &net.OpError{Op: "listen", Net: family, Err: unix.ENETUNREACH}
		}
	default:
		return nil, net.UnknownNetworkError(family)
	}
	const flags = unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	raw := false
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|flags, proto)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPROTONOSUPPORT) {
		raw = true
		fd, err = unix.Socket(domain, unix.SOCK_RAW|flags, proto)
	}
	if errors.Is(err, unix.EPERM) {
		return nil, &SocketError{Setting: "ping", Err: err,
			Mend: `echo requests need "sysctl -w net.ipv4.ping_group_range='0 2147483647'" or CAP_NET_RAW`}
	}
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := d.keepOut(fd); err != nil {
		unix.Close(fd)
		return nil, controlError(err)
	}
	packetBuffers(uintptr(fd))
	if raw {
		if err := onlyEchoReplies(fd, domain); err != nil {
			unix.Close(fd)
			return nil, err
		}
	}
	f := os.NewFile(uintptr(fd), "ping")
	defer f.Close() // FilePacketConn has its own copy
	c, err := net.FilePacketConn(f)
	if err != nil {
		return nil, err
	}
	return &Ping{PacketConn: c, Raw: raw}, nil
}

// icmpFilter is ICMP_FILTER of linux/icmp.h: a mask of types to drop.
const icmpFilter = 1

// onlyEchoReplies keeps every other ICMP message of the host out of a raw
// socket. Errors still arrive, on the error queue.
func onlyEchoReplies(fd, domain int) error {
	if domain == unix.AF_INET6 {
		f := unix.ICMPv6Filter{}
		for i := range f.Data {
			f.Data[i] = ^uint32(0) // ICMPV6_FILTER: set bits are dropped
		}
		const echoReply = 129 // RFC 4443 §4.2
		f.Data[echoReply>>5] &^= 1 << (echoReply & 31)
		if err := unix.SetsockoptICMPv6Filter(fd, unix.SOL_ICMPV6, unix.ICMPV6_FILTER, &f); err != nil {
			return fmt.Errorf("setsockopt ICMPV6_FILTER: %w", err)
		}
		return nil
	}
	const echoReply = 0 // RFC 792
	if err := unix.SetsockoptInt(fd, unix.SOL_RAW, icmpFilter, ^(1 << echoReply)); err != nil {
		return fmt.Errorf("setsockopt ICMP_FILTER: %w", err)
	}
	return nil
}
