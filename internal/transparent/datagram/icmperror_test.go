package datagram_test

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"netstackd/internal/ippkt"
	"netstackd/internal/netstack"
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

// icmpPacket is an ICMP message from src to dst as netstack hands it over.
func icmpPacket(src, dst netip.Addr, typ, code uint8, word uint32, payload []byte) *netstack.Packet {
	msg := make([]byte, 8, 8+len(payload))
	msg[0], msg[1] = typ, code
	binary.BigEndian.PutUint32(msg[4:], word)
	msg = append(msg, payload...)
	var ip []byte
	proto := uint8(ippkt.ProtoICMP)
	var sum uint16
	if src.Is4() {
		h := header.IPv4(make([]byte, header.IPv4MinimumSize))
		h.Encode(&header.IPv4Fields{TotalLength: uint16(20 + len(msg)), TTL: 64, Protocol: 1, SrcAddr: tcpAddr(src), DstAddr: tcpAddr(dst)})
		ip = h
	} else {
		h := header.IPv6(make([]byte, header.IPv6MinimumSize))
		h.Encode(&header.IPv6Fields{PayloadLength: uint16(len(msg)), HopLimit: 64, TransportProtocol: 58, SrcAddr: tcpAddr(src), DstAddr: tcpAddr(dst)})
		ip = h
		proto = ippkt.ProtoICMPv6
		sum = header.PseudoHeaderChecksum(58, tcpAddr(src), tcpAddr(dst), uint16(len(msg)))
	}
	binary.BigEndian.PutUint16(msg[2:], ^checksum.Checksum(msg, sum))
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(append(append([]byte(nil), ip...), msg...))})
	pkt.NetworkHeader().Consume(len(ip))
	pkt.TransportHeader().Consume(8)
	return &netstack.Packet{
		Src: src, Dst: dst, Proto: proto, TTL: 64, DF: !src.Is4(), Hash: 7,
		Network: pkt.NetworkHeader().Slice(), Transport: pkt.TransportHeader().Slice(), Buf: pkt,
	}
}
