package netstack

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"netstackd/internal/ippkt"
	"netstackd/link"
)

// WriteUnreachable sends a destination-unreachable error from an address to
// the source of the quoted packet. The quote starts with an IP header of the
// same family and carries at least eight bytes more: Linux compares a TCP
// quote's sequence number before it believes the error. An error
// beyond ErrorLimit is not sent, and one that the device refuses is lost like any
// packet: each is counted.
func (s *Stack) WriteUnreachable(from netip.Addr, quote []byte, why ippkt.Unreachable) {
	var to netip.Addr
	if from.Is4() {
		to = netipAddr(header.IPv4(quote).SourceAddress())
	} else {
		to = netipAddr(header.IPv6(quote).SourceAddress())
	}
	transport := quote[len(quote)-quotedTransport:]
	port := binary.BigEndian.Uint16(transport) // the source's, but for ICMP
	if !s.errors.Allow(netip.AddrPortFrom(to, port)) {
		return
	}
	e := why.Message(from)
	// Any hash will do, if it is the same for all packets of this flow.
	_ = s.link.WriteRaw(uint32(port), link.Offload{}, [][]byte{e.Append(nil, to, quote)})
}

// ErrorLimit returns the bound on ICMP errors, for all that writes them into
// the stack's link.
func (s *Stack) ErrorLimit() *ErrorLimit { return s.errors }
