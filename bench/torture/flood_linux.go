package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"netstackd/internal/ippkt"
)

// floodRows are packets in numbers, each of them right.
func floodRows() []row {
	return []row{
		{
			name: "flood/SYN spoofed, LAN, host that answers", gateway: true,
			about: "25,000 SYNs at 5,000/s from random addresses of the LAN to a listening server",
			load: lanFlood(5000, 25_000, func(i int, r *rand.Rand) []byte {
				return spoofedSYN(r, netip.AddrPortFrom(addr4(10, 78, i%50_000), portEcho))
			}),
		},
		{
			name: "flood/SYN spoofed, LAN, silent host", short: true, gateway: true,
			about: "25,000 SYNs at 5,000/s from random addresses of the LAN to a host that drops them",
			load: lanFlood(5000, 25_000, func(i int, r *rand.Rand) []byte {
				return spoofedSYN(r, netip.AddrPortFrom(addr4(10, 79, i%50_000), portEcho))
			}),
		},
		{
			name: "flood/SYN from one LAN address, silent host", gateway: true,
			about: "25,000 SYNs at 5,000/s from one address of the LAN",
			load: lanFlood(5000, 25_000, func(i int, _ *rand.Rand) []byte {
				from := netip.AddrPortFrom(addr4(10, 88, 0x303), uint16(1024+i%60_000))
				return tcpPacket(from, netip.AddrPortFrom(addr4(10, 79, i%50_000), portEcho), flagSYN, uint32(i), nil, nil)
			}),
		},
		{
			name:  "flood/scan of a silent host",
			about: "a local program makes 12,000 connections at 2,500/s to a host that drops them",
			load:  scan,
		},
		{
			name: "flood/UDP to many ports and hosts", short: true,
			about: "100,000 datagrams at 20,000/s from one socket to closed ports of many hosts",
			load:  udpScan,
		},
		{
			name: "flood/UDP spoofed, LAN", gateway: true,
			about: "128,000 datagrams at 25,000/s from random addresses of the LAN",
			load: lanFlood(25_000, 128_000, func(i int, r *rand.Rand) []byte {
				from := netip.AddrPortFrom(addr4(10, 88, 0x400+r.IntN(60_000)), uint16(1024+r.IntN(60_000)))
				return udpPacket(from, netip.AddrPortFrom(addr4(10, 78, i%50_000), portEcho), at(int64(i), 64))
			}),
		},
		{
			name: "flood/ICMP echo", short: true,
			about: "200,000 echo requests at 40,000/s into the TUN",
			load: tunFlood(40_000, 200_000, func(i int, _ *rand.Rand) []byte {
				return icmpEcho(tunAddr4, addr4(10, 78, i%1000), 7, uint16(i), at(0, 56))
			}),
		},
		{
			name: "flood/ICMP echo, LAN", gateway: true,
			about: "200,000 echo requests at 40,000/s from the LAN, IPv4 and IPv6 in turn",
			load: lanFlood(40_000, 200_000, func(i int, _ *rand.Rand) []byte {
				if i%2 == 0 {
					return icmpEcho(addr4(10, 88, 0x303), addr4(10, 78, i%1000), 7, uint16(i), at(0, 56))
				}
				return icmpEcho(addr6(0xfd, 0x88, 3), addr6(0xfd, 0x78, i%1000), 7, uint16(i), at(0, 56))
			}),
		},
		{
			name:  "flood/ICMP errors that netstackd makes",
			about: "200,000 datagrams at 40,000/s, with --no-ipv6, to IPv6 hosts: each is refused",
			flags: []string{"--no-ipv6"}, paths: onlyIPv4,
			load: refusals,
		},
		{
			name: "flood/fragments that never complete", short: true,
			about: "100,000 first fragments at 20,000/s, IPv4 and IPv6 in turn",
			load:  tunFlood(20_000, 100_000, loneFragment),
		},
		{
			name:  "flood/fragments that overlap",
			about: "100,000 fragments at 20,000/s of 64 datagrams, at random offsets",
			load:  tunFlood(20_000, 100_000, overlappingFragment),
		},
	}
}

// tunAddr4 and tunAddr6 are netstackd's host addresses, as --address has them.
var (
	tunAddr4 = netip.MustParseAddr("198.18.0.1")
	tunAddr6 = netip.MustParseAddr("fd19:8::1")
)

// onlyIPv4 are paths for rows in which IPv6 is refused.
func onlyIPv4(n *network) []path {
	return []path{
		{name: "IPv4", from: n.a},
		{name: "SOCKS", from: n.a, socks: netip.MustParseAddrPort("127.0.0.1:1080")},
	}
}

// maker makes the i-th packet of a flood.
type maker func(i int, r *rand.Rand) []byte

// lanFlood sends packets from C.
func lanFlood(perSecond, most int, packet maker) func(context.Context, *run) error {
	return func(ctx context.Context, r *run) error {
		j, err := r.net.fromLAN()
		if err != nil {
			return err
		}
		return j.flood(ctx, r, perSecond, most, packet)
	}
}

// tunFlood sends packets into the TUN.
func tunFlood(perSecond, most int, packet maker) func(context.Context, *run) error {
	return func(ctx context.Context, r *run) error {
		j, err := r.net.intoTUN(false)
		if err != nil {
			return err
		}
		return j.flood(ctx, r, perSecond, most, packet)
	}
}

// flood sends packets, and closes the injector.
func (j *injector) flood(ctx context.Context, r *run, perSecond, most int, packet maker) error {
	defer j.close()
	random := rand.New(rand.NewPCG(1, 2))
	sent := 0
	err := paced(ctx, perSecond, most, func(i int) error {
		sent++
		return j.send(packet(i, random))
	})
	r.note("%d packets sent", sent)
	if err == nil && sent < most/2 {
		r.note("the machine sent only %d of %d packets", sent, most)
	}
	return err
}

func spoofedSYN(r *rand.Rand, to netip.AddrPort) []byte {
	from := netip.AddrPortFrom(addr4(10, 88, 0x400+r.IntN(60_000)), uint16(1024+r.IntN(60_000)))
	return tcpPacket(from, to, flagSYN, r.Uint32(), []byte{2, 4, 5, 0xb4}, nil)
}

// scan opens connections to a silent host, and gives each up when 8,000 more
// have been opened.
func scan(ctx context.Context, r *run) error {
	const kept = 8000
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	return r.net.a.do(func() error {
		return paced(ctx, 2500, 12_000, func(i int) error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return os.NewSyscallError("socket", err)
			}
			fds = append(fds, fd)
			if len(fds) > kept {
				unix.Close(fds[0])
				fds = fds[1:]
			}
			to := &unix.SockaddrInet4{Addr: addr4(10, 79, i%5).As4(), Port: 1 + i%60_000}
			if err := unix.Connect(fd, to); err != unix.EINPROGRESS && err != unix.EAGAIN {
				return os.NewSyscallError("connect", err)
			}
			return nil
		})
	})
}

// udpScan sends datagrams to closed ports, from one socket.
func udpScan(ctx context.Context, r *run) error {
	return r.net.a.do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		defer unix.Close(fd)
		return paced(ctx, 20_000, 100_000, func(i int) error {
			to := &unix.SockaddrInet4{Addr: addr4(10, 78, i%40_000).As4(), Port: 10_000 + i%40_000}
			_ = unix.Sendto(fd, at(int64(i), 64), 0, to)
			return nil
		})
	})
}

// refusalsMost is how many ICMP errors a second are plenty: Linux itself makes
// 1,000 (icmp_msgs_per_sec).
const refusalsMost = 2000

// refusals has netstackd refuse datagrams, and counts the ICMP errors.
func refusals(ctx context.Context, r *run) error {
	before, err := r.unreachables()
	if err != nil {
		return err
	}
	flood := tunFlood(40_000, 200_000, func(i int, _ *rand.Rand) []byte {
		return udpPacket(netip.AddrPortFrom(tunAddr6, 4000), netip.AddrPortFrom(addr6(0xfd, 0x78, i%50_000), portEcho), at(int64(i), 64))
	})
	if err := flood(ctx, r); err != nil {
		return err
	}
	after, err := r.unreachables()
	n := after - before
	most := refusalsMost * int(windowDefault.Seconds())
	r.check(n <= most, fmt.Sprintf("≤ %d ICMP errors", most), "%d ICMP errors", n)
	return err
}

// unreachables is how many ICMPv6 errors A has received (/proc/net/snmp6).
func (r *run) unreachables() (n int, err error) {
	err = r.net.a.do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/snmp6")
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) == 2 && f[0] == "Icmp6InDestUnreachs" {
				n, err = strconv.Atoi(f[1])
			}
		}
		return err
	})
	return n, err
}

func loneFragment(i int, r *rand.Rand) []byte {
	payload := at(int64(i), 1200)
	if i%2 == 0 {
		const more = 0x2000
		b := ipv4Packet(tunAddr4, addr4(10, 78, r.IntN(1000)), ippkt.ProtoUDP, more, payload[:1200&^7])
		return withID(b, uint16(i))
	}
	dst := addr6(0xfd, 0x78, r.IntN(1000))
	return ipPacket(tunAddr6, dst, ippkt.ProtoFragment, fragment6(ippkt.ProtoUDP, 0, true, uint32(i), payload[:1200&^7]))
}

func overlappingFragment(i int, r *rand.Rand) []byte {
	offset, id := uint16(r.IntN(8192)), uint16(i%64)
	payload := at(int64(i), 8*(1+r.IntN(150)))
	if i%2 == 0 {
		more := uint16(r.IntN(2)) << 13
		return withID(ipv4Packet(tunAddr4, addr4(10, 78, 1), ippkt.ProtoUDP, more|offset, payload), id)
	}
	return ipPacket(tunAddr6, addr6(0xfd, 0x78, 1), ippkt.ProtoFragment, fragment6(ippkt.ProtoUDP, offset, r.IntN(2) == 0, uint32(id), payload))
}

// withID sets the identification of an IPv4 packet.
func withID(b []byte, id uint16) []byte {
	b[4], b[5] = byte(id>>8), byte(id)
	b[10], b[11] = 0, 0
	sum := ^ippkt.Sum(b[:20], 0)
	b[10], b[11] = byte(sum>>8), byte(sum)
	return b
}
