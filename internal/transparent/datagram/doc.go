// Package datagram carries on the UDP datagrams and echo requests of
// applications to any address that is not the stack's own.
//
// UDP and Echo are one package because they share the session: its lock, its
// batch, its counters, and the code that drives a host socket (error queue,
// path MTU, don't-fragment). Apart, the session would export most of its fields,
// or cost an interface call for each datagram.
//
// # Theory of operation
//
// UDP and Echo take packets before any transport of the stack sees them, and
// make the packets of the answers themselves (package outlet). Both are a set of
// sessions (type sessionSet). They differ in what their sockets send and receive:
//
//	                       ┌─ session ─► carrier ─► network
//	HandlePacket ─ table ──┼─ session ─► carrier
//	                       └─ …              │ answers, errors
//	TUN ◄─ Link.WriteRaw ◄─ outlet ◄─────────┘
//
// A carrier is the outbound side of a session: a host socket, or the connection
// of an upstream. A host socket is driven by system calls on batches that do not
// block, on the goroutine that delivers packets and on the epoll loop. The
// connection of an upstream may block, so it has goroutines of its own.
//
// # The session
//
//	state      event                        action                       next
//	-          first packet of a source     enter table, registry, heap; opening
//	                                        start to open the carrier
//	opening    packet                       queue, up to a batch         opening
//	opening    carrier opened               receive; send the queue      open
//	opening    carrier failed, with an      answer the queue with ICMP   refusing
//	           answer for the application   errors
//	opening    carrier failed, without      drop the queue               closed
//	open       packet                       queue                        open
//	open       Flush, or the queue is full  send the queue               open
//	open       answer                       write it into the TUN        open
//	open       late error on the socket     write an ICMP error          open
//	open       ICMP port unreachable from   short timeout from now on    open
//	           the application
//	open       the carrier's end            -                            closed
//	refusing   packet                       answer with an ICMP error    refusing;
//	                                                      if inline: closed
//	refusing   1 s, if not inline           -                            closed
//	any        idle timeout, eviction,      leave table and heap; drop   closed
//	           kill, end of Serve           the queue; interrupt a send
//	closed     packet                       drop                         closed
//	closed     last user leaves             destroy the carrier, close   -
//	                                        the flow
//
// "Inline" is a set whose carriers open without waiting for the network.
//
// Timers: a session is idle after 5 minutes (UDP), 30 s (echo), or 10 s if it
// has only talked to port 53 or its application has closed the port; 1 s while
// the set drains. A single timer in Serve ends the sessions that are due.
//
// Goroutines and locks: the state, the queue and the number of users are guarded
// by session.mu, which is never held over a system call. HandlePacket and Flush
// run on the goroutines that deliver packets, one for each queue of the TUN.
// Answers and late errors are read by the session's epoll task, or by the read
// goroutine of an upstream's connection. Serve opens carriers that may wait, each
// on a goroutine, and expires sessions. Calls of carrier.send do not overlap
// (session.sending). A goroutine that uses the carrier counts in session.users,
// so that close never waits: the last user destroys the carrier.
//
// # What a router would do
//
// ICMP errors that the network sends are taken from the sockets' error queues
// and passed on, from the host that sent them, about the application's own
// packet: the application's kernel finds the socket by the quoted addresses and
// ports. Errors of this host (no route, no neighbor, prohibited, too big) become
// the same messages, from the destination. If the application has lowered the
// TTL of a packet, it is carried on, less one. A packet whose TTL ends here is
// answered as by a router, so that path tracing works.
//
// The don't-fragment bit is carried on. If the path is too narrow for a packet
// with that bit, its sender gets an ICMP error. One thing can't be read from a
// packet: the TUN's MTU is far larger than that of other interfaces, so an
// application's kernel does not fragment, and marks don't-fragment, what it would
// fragment for any other interface. See tooBig.
package datagram
