// Package ippkt makes and reads IP packets by hand: IP and UDP headers,
// checksums, fragments, and ICMP errors with what they quote.
//
// The stack has gVisor's header types for the packets that it processes. This
// package serves the packets that never enter the stack: those that the
// inbounds answer, and those that a test forges. It depends on the standard
// library only, and allocates nothing where the caller's buffer has room.
package ippkt

// Header lengths in bytes, without options.
const (
	IPv4Len     = 20 // RFC 791
	IPv6Len     = 40 // RFC 8200
	FragmentLen = 8  // IPv6 fragment header, RFC 8200 §4.5
	UDPLen      = 8  // RFC 768
	ICMPLen     = 8  // RFC 792, RFC 4443: the messages that are made and read here

	// MaxHeaders is the longest sequence of headers of a UDP datagram.
	MaxHeaders = IPv6Len + FragmentLen + UDPLen
	// MaxPacket is the longest IPv4 packet, and the longest IPv6 payload.
	MaxPacket = 65535

	maxIPv4Len = 60 // with options
)

// IP protocol numbers (IANA).
const (
	ProtoICMP     = 1
	ProtoTCP      = 6
	ProtoUDP      = 17
	ProtoFragment = 44 // next header value of the IPv6 fragment header
	ProtoICMPv6   = 58
)

// DefaultTTL is the time to live of packets that are made here.
const DefaultTTL = 64
