// Package socks is a proxy server that speaks SOCKS5 (RFC 1928, RFC 1929), SOCKS4,
// SOCKS4a and HTTP on one port, and clients of such servers. The message formats are
// in [netstackd/socks/wire], users and passwords in [netstackd/socks/auth].
//
// # Theory of operation
//
// A [Server] accepts connections from any listener, on the host or inside a userspace
// stack, and finds out the protocol by the first byte: 5, 4, or a letter. One
// goroutine reads the handshake into one small pooled buffer, under one deadline.
// What the client sent after its request is early data: it stays in that buffer, or
// in the kernel, until it can be delivered.
//
//	CONNECT    Rule, Open, dial, answer, and pass both ends to the Relay; the
//	           goroutine ends, and an idle connection costs what the Relay needs
//	BIND       listen, answer, accept one peer, answer again, pass to the Relay
//	ASSOCIATE  one UDP socket towards the client, and one for each address family
//	           towards the destinations, as long as the TCP connection lives
//	HTTP       CONNECT as above; net/http carries other requests, so that there is
//	           one implementation of message framing
//
// [Config] names what the server needs of its user: the [Dialer] for a [Request], a
// rule, a registry, a [Relay]. Each has a default.
//
// The reply to a client follows from the real cause of a failure, found with
// errors.Is. A dial is canceled when its client hangs up. The number of handshakes is
// bounded; at the limit the oldest is evicted, so that a client that stalls does not
// keep others out.
//
// A [Client] goes through a SOCKS5 server, a [Client4] through a SOCKS4a server, an
// [HTTPClient] through an HTTP proxy. Each dials its server through a
// [ContextDialer], which may be another client: [Via] makes such chains. The far end
// looks up names. A Client sends its whole handshake in one write once it knows that
// its server accepts that; the answer then takes one round trip.
package socks
