// Package forward ends the transparent traffic that arrives in the stack and
// carries it on: TCP connections, UDP datagrams and echo requests to any
// address that is not the stack's own.
//
// # Theory of operation
//
// TCP dials first and only then completes the application's handshake, so that
// a closed port looks closed and a dead host dead; the connection then belongs
// to the relay.
//
// UDP and Echo take packets before any transport sees them, and make the
// answers' packets themselves: no endpoint of the stack is involved. Both are
// sets of sessions, told at type sessionSet, and differ in what their sockets
// send and receive:
//
//	                       ┌─ session ─► carrier ─► network
//	HandlePacket ─ table ──┼─ session ─► carrier
//	                       └─ …              │ answers, errors
//	TUN ◄─ Link.WriteRaw ◄─ outlet ◄─────────┘
//
// A carrier is a host socket, which is driven by system calls on batches and
// never waits, or the connection of an upstream, which has goroutines instead.
//
// Opening a host's socket doesn't wait for the network, and happens where the
// packet is delivered. Opening an upstream's does: it has a goroutine, and the
// session's first datagrams wait for it, up to a batch.
//
// # What a router would say
//
// ICMP errors that come back from the network are taken from the sockets'
// error queues and passed on, from whoever sent them, about the application's
// own packet: its kernel finds the socket by the addresses and ports that they
// quote. Errors of the host itself (no route, no neighbor, forbidden, too big)
// become the same messages as from the destination. The TTL of a packet is
// carried on, less one, when the application has lowered it, and one that ends
// here is answered as by a router, so that path tracing works.
//
// The don't-fragment bit is carried on, and where the path is too narrow for a
// packet with that bit its sender is told. There is one thing that a packet
// doesn't tell. The TUN's MTU is far larger than that of other interfaces, so
// an application's kernel leaves whole, and marks don't-fragment, what it would
// have cut up for any other: see tooBig.
package forward
