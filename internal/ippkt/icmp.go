package ippkt

import (
	"encoding/binary"
	"net/netip"
)

// ICMP and ICMPv6 types and codes (IANA registries of those names).
const (
	ICMP4EchoReply    = 0
	ICMP4Unreachable  = 3
	ICMP4EchoRequest  = 8
	ICMP4TimeExceeded = 11
	ICMP4ParamProblem = 12
	Code4Port         = 3 // of ICMP4Unreachable
	Code4FragNeeded   = 4
	ICMP6Unreachable  = 1
	ICMP6PacketTooBig = 2
	ICMP6TimeExceeded = 3
	ICMP6ParamProblem = 4
	ICMP6EchoRequest  = 128
	ICMP6EchoReply    = 129
	Code6Port         = 4 // of ICMP6Unreachable
	CodeTransit       = 0 // of both "time exceeded" messages: in transit
)

// ICMPError is an ICMP message about a packet that was not delivered.
type ICMPError struct {
	From       netip.Addr // the host or router that reports it
	Type, Code uint8      // of ICMP or ICMPv6, by the family of From
	Info       uint32     // the second word of the header: the MTU or a pointer
}

// Unreachable is why a destination cannot be reached.
type Unreachable uint8

// The reasons, each with its code in RFC 792 and RFC 4443.
const (
	NetUnreachable Unreachable = iota
	HostUnreachable
	PortUnreachable
	AdminProhibited
)

// Message is the destination-unreachable error for u that from sends.
func (u Unreachable) Message(from netip.Addr) ICMPError {
	code4, code6 := u.codes()
	if from.Is4() {
		return ICMPError{From: from, Type: ICMP4Unreachable, Code: code4}
	}
	return ICMPError{From: from, Type: ICMP6Unreachable, Code: code6}
}

// codes returns u's code in ICMP and in ICMPv6.
func (u Unreachable) codes() (code4, code6 uint8) {
	switch u {
	case NetUnreachable:
		return 0, 0
	case PortUnreachable:
		return Code4Port, Code6Port
	case AdminProhibited:
		return 13, 1
	}
	return 1, 3
}

// TooBig is the message that a packet is too long for its path, which has this
// MTU.
func TooBig(from netip.Addr, mtu uint32) ICMPError {
	if from.Is4() {
		return ICMPError{From: from, Type: ICMP4Unreachable, Code: Code4FragNeeded, Info: mtu}
	}
	return ICMPError{From: from, Type: ICMP6PacketTooBig, Info: mtu}
}

// TTLExceeded is the message of a router that a packet's time to live has run
// out.
func TTLExceeded(from netip.Addr) ICMPError {
	if from.Is4() {
		return ICMPError{From: from, Type: ICMP4TimeExceeded, Code: CodeTransit}
	}
	return ICMPError{From: from, Type: ICMP6TimeExceeded, Code: CodeTransit}
}

// MaxICMPError is how long a packet with an ICMP error may be (RFC 4443
// §2.4 (c)). With IPv4 it is less.
const (
	MaxICMPError  = 1280
	maxICMPError4 = 576 // RFC 1812 §4.3.2.3
)

// Append appends to b the whole packet that carries the error to a host. The
// quote, in any number of pieces, is the packet that the host had sent, from
// its IP header on; what exceeds the longest error is left out. All addresses
// are of one family. Nothing is allocated if b has room for MaxICMPError.
func (e *ICMPError) Append(b []byte, to netip.Addr, quote ...[]byte) []byte {
	h := Header{Src: e.From, Dst: to, Proto: ProtoICMPv6, TTL: DefaultTTL}
	limit := MaxICMPError
	if to.Is4() {
		h.Proto, limit = ProtoICMP, maxICMPError4
	}
	start, ipLen := len(b), HeaderLen(to)
	var headers [IPv6Len + ICMPLen]byte
	b = append(b, headers[:ipLen+ICMPLen]...)
	for _, q := range quote {
		b = append(b, q[:min(len(q), start+limit-len(b))]...)
	}
	packet := b[start:]
	msg := packet[ipLen:]
	h.Put(packet, len(msg))
	msg[0], msg[1] = e.Type, e.Code
	binary.BigEndian.PutUint32(msg[4:], e.Info)
	PutICMPChecksum(msg, e.From, to)
	return b
}

// PutICMPChecksum fills in the checksum of a message of ICMP or ICMPv6.
func PutICMPChecksum(msg []byte, src, dst netip.Addr) {
	msg[2], msg[3] = 0, 0
	var sum uint16
	if !src.Is4() {
		sum = PseudoSum(src, dst, ProtoICMPv6, len(msg))
	}
	binary.BigEndian.PutUint16(msg[2:], ^Sum(msg, sum))
}

// IsEchoRequest reports whether a message of the protocol proto, of which b
// holds the header, is an echo request.
func IsEchoRequest(proto uint8, b []byte) bool {
	if len(b) < ICMPLen || b[1] != 0 {
		return false
	}
	return proto == ProtoICMP && b[0] == ICMP4EchoRequest || proto == ProtoICMPv6 && b[0] == ICMP6EchoRequest
}

// IsError reports whether a message is an ICMP error: it quotes a packet.
func IsError(proto uint8, b []byte) bool {
	switch {
	case len(b) < ICMPLen:
		return false
	case proto == ProtoICMP:
		return b[0] == ICMP4Unreachable || b[0] == ICMP4TimeExceeded || b[0] == ICMP4ParamProblem
	case proto == ProtoICMPv6:
		return b[0] < 128 // RFC 4443 §2.1
	}
	return false
}

// IsPortUnreachable reports whether an ICMP error says that a port is closed.
func IsPortUnreachable(proto uint8, b []byte) bool {
	if proto == ProtoICMP {
		return b[0] == ICMP4Unreachable && b[1] == Code4Port
	}
	return b[0] == ICMP6Unreachable && b[1] == Code6Port
}
