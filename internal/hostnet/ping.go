package hostnet

import "net"

// Ping is a socket for ICMP or ICMPv6 echo requests, marked and bound as any
// other. Close it when done. Errors that come back for a request are for a caller
// that turns on IP_RECVERR and reads the error queue.
type Ping struct {
	net.PacketConn // *net.UDPConn, or *net.IPConn when Raw

	// Raw says which kind it is.
	//
	// An unprivileged ping socket (false) writes its own port as the
	// identifier of each request, fills in the checksum, and receives only
	// replies to that identifier, from the ICMP header on. Addresses are
	// *net.UDPAddr whose port doesn't count.
	//
	// A raw one (true) sends the identifier and, over IPv4, the checksum that
	// the caller wrote, and receives the replies to every process of the
	// host: tell yours by address and identifier. Addresses are *net.IPAddr.
	// ReadFrom strips the IPv4 header; recvmsg(2) on the descriptor doesn't.
	Raw bool
}
