package doctor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"netstackd/internal/netcfg"
)

// checkFirewall asks whether a filter on this host drops what a socket of the
// daemon sends. The kernel tells the sender of a datagram or of a raw packet
// (EPERM), but not that of a TCP connection, which runs into its timeout. The
// packets have a TTL of 1, so that the first router drops them.
func checkFirewall(in *netcfg.Inspector) Check {
	const name = "firewall"
	mark, err := in.FreeMark()
	if err != nil {
		return warn(name, err.Error(), "ip rule")
	}
	var dropped []string
	routes := 0
	for _, v6 := range []bool{false, true} {
		family := "IPv4"
		if v6 {
			family = "IPv6"
		}
		dst, ok := beyond(in, v6)
		if !ok {
			continue
		}
		routes++
		for _, p := range []struct {
			name  string
			proto int
		}{{"TCP", unix.IPPROTO_TCP}, {"UDP", unix.IPPROTO_UDP}} {
			switch err := sendProbe(dst, p.proto, mark); {
			case errors.Is(err, errNoRaw):
				return warn(name, "only root can look", "sudo netstackd doctor")
			case errors.Is(err, unix.EPERM):
				dropped = append(dropped, p.name+" over "+family)
			case err != nil:
				return warn(name, fmt.Sprintf("%s over %s: %v", p.name, family, err), "ip route get "+dst.String())
			}
		}
	}
	switch {
	case len(dropped) > 0:
		return fail(name, "drops what the daemon sends: "+strings.Join(dropped, ", "),
			fmt.Sprintf("nft list ruleset # accept what has mark %#x on its way out", mark))
	case routes == 0:
		return pass(name, "nothing to try: no route by a gateway")
	}
	return pass(name, "TCP and UDP leave this host")
}

// beyond returns an address that the family's uplink leads to. Behind a default
// route it is one that belongs to no host (RFC 5737, RFC 3849).
func beyond(in *netcfg.Inspector, v6 bool) (netip.Addr, bool) {
	up, ok := in.Uplink(v6)
	if !ok {
		return netip.Addr{}, false
	}
	if up.Destination.Bits() > 0 {
		return up.Destination.Addr(), true
	}
	if v6 {
		return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 1}), true
	}
	return netip.AddrFrom4([4]byte{192, 0, 2, 1}), true
}

// errNoRaw is the error of a process that may not open a raw socket.
var errNoRaw = errors.New("no right to open a raw socket")

// sendProbe sends a SYN or an empty datagram to dst, port 443, with a TTL of 1
// and the mark of the daemon's sockets.
func sendProbe(dst netip.Addr, proto int, mark uint32) error {
	domain, level, ttl := unix.AF_INET, unix.IPPROTO_IP, unix.IP_TTL
	var to unix.Sockaddr
	if dst.Is4() {
		to = &unix.SockaddrInet4{Addr: dst.As4()}
	} else {
		domain, level, ttl = unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
		to = &unix.SockaddrInet6{Addr: dst.As16()}
	}
	fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return fmt.Errorf("%w: %w", errNoRaw, err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, level, ttl, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)); err != nil {
		return fmt.Errorf("%w: %w", errNoRaw, err)
	}
	return os.NewSyscallError("sendto", unix.Sendto(fd, probeHeader(proto), 0, to))
}

// probeHeader is a transport header from port 1024 to port 443. Its checksum is
// left out: no host gets it.
func probeHeader(proto int) []byte {
	const from, to = 1024, 443
	if proto == unix.IPPROTO_UDP {
		b := make([]byte, 8)
		binary.BigEndian.PutUint16(b[0:], from)
		binary.BigEndian.PutUint16(b[2:], to)
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
		return b
	}
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b[0:], from)
	binary.BigEndian.PutUint16(b[2:], to)
	b[12] = byte(len(b) / 4 << 4) // data offset, in words of 32 bits
	b[13] = 0x02                  // SYN
	binary.BigEndian.PutUint16(b[14:], 65535)
	return b
}
