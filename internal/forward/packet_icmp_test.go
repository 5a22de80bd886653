package forward_test

import (
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// icmpError is an ICMP error as the application's kernel reads it.
type icmpError struct {
	from      netip.Addr
	to        netip.Addr
	typ, code uint8
	mtu       uint32
	src, dst  netip.AddrPort // of the quoted datagram
	quoted    []byte
}

func parseICMPError(t testing.TB, b []byte) icmpError {
	t.Helper()
	ip := parseIP(t, b)
	e := icmpError{from: ip.src, to: ip.dst}
	var inner []byte
	if ip.src.Is4() {
		h := header.ICMPv4(ip.payload)
		if ip.proto != header.ICMPv4ProtocolNumber || checksum.Checksum(h, 0) != 0xffff {
			t.Fatalf("not a valid ICMP message: %x", b)
		}
		e.typ, e.code, e.mtu = uint8(h.Type()), uint8(h.Code()), uint32(h.MTU())
		inner = h.Payload()
	} else {
		h := header.ICMPv6(ip.payload)
		sum := header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, tcpAddr(ip.src), tcpAddr(ip.dst), uint16(len(h)))
		if ip.proto != header.ICMPv6ProtocolNumber || checksum.Checksum(h, sum) != 0xffff {
			t.Fatalf("not a valid ICMPv6 message: %x", b)
		}
		e.typ, e.code, e.mtu = uint8(h.Type()), uint8(h.Code()), h.MTU()
		inner = h.Payload()
	}
	e.quoted = inner
	if header.IPVersion(inner) == 4 {
		h := header.IPv4(inner)
		if !h.IsChecksumValid() {
			t.Fatalf("quoted header has a wrong checksum: %x", inner)
		}
		e.src, e.dst = quotedPorts(netAddr(h.SourceAddress()), netAddr(h.DestinationAddress()), inner[h.HeaderLength():])
		return e
	}
	h := header.IPv6(inner)
	e.src, e.dst = quotedPorts(netAddr(h.SourceAddress()), netAddr(h.DestinationAddress()), inner[header.IPv6MinimumSize:])
	return e
}

func quotedPorts(src, dst netip.Addr, transport header.UDP) (netip.AddrPort, netip.AddrPort) {
	return netip.AddrPortFrom(src, transport.SourcePort()), netip.AddrPortFrom(dst, transport.DestinationPort())
}
