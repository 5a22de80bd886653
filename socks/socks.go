// Package socks speaks SOCKS5 (RFC 1928, RFC 1929), SOCKS4, SOCKS4a and HTTP
// proxying, as a server and as a client.
//
// # Theory of operation
//
// A [Server] accepts from any listener, be it the host's or one inside a
// userspace stack, and tells the protocols apart by the first byte: 5, 4, or a
// letter. One goroutine reads the handshake into one small pooled buffer,
// under one deadline for all of it. What the client sent behind its request is
// early data: it stays in that buffer, or in the kernel, until it can be
// delivered.
//
//	CONNECT    register the flow, dial, answer, hand both ends to the relay;
//	           the goroutine ends, and an idle flow costs what the relay makes it
//	BIND       listen, answer, accept one peer, answer again, hand over
//	ASSOCIATE  one UDP socket towards the client, one for each family towards
//	           the world, for as long as the TCP connection lives
//	HTTP       CONNECT as above; other requests through net/http, so that one
//	           implementation does all the framing
//
// The server carries a flow on through a [Dialer] and tells the client the
// real cause of a failure, found with errors.Is. A dial lasts no longer than
// its client: when that hangs up, the dial is canceled. Handshakes and dials
// under way are bounded; at the limit the oldest gives way, so that neither
// stalling clients nor dead destinations keep others out.
//
// A [Client] is a Dialer that goes through another SOCKS5 server, a [Client4]
// through a SOCKS4a server, an [HTTPClient] through an HTTP proxy. Each dials its server
// through a Dialer in turn: chains are made by composing, as [Via] does. Names
// are left to the far end. A Client sends its whole handshake in one write once
// it has seen the server take that, and so is one round trip from its answer.
package socks
