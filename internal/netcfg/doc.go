// Package netcfg gives the TUN its addresses and routes the host's traffic into
// it, each step with its undo.
//
// # Theory of operation
//
// Open sets MTU and addresses and brings the interface up. Capture, called once
// the stack serves, is what moves routes. Nothing of it touches the main table,
// a sysctl of the host or anybody else's rule. It consists of tables of our own
// and, in front of the main table's rule (32766), a band of rules:
//
//	base+0   iif lo, to STACK            main       the stack, for this host
//	base+1   to STACK                    prohibit   and not for others (see below)
//	base+5   fwmark MARK                 goto END   our outbound sockets: no loop
//	base+10  iif TUN                     goto END   what came out of the TUN
//	base+20  iif lo, from TUN, TCP       lookup T   connections that use the TUN (D, see DNS)
//	base+21  iif lo, from TUN            lookup P   and other flows that do (see MTU)
//	base+30  not iif lo                  lookup T   forwarded traffic (--gateway)
//	base+40  from any address            goto END   bound sockets (see below)
//	base+50  uidrange A-B                goto END   --exclude-uid
//	base+60  iif lo, port 53             lookup D   DNS, with a default route
//	base+70  iif lo [uidrange A-B], TCP  lookup T   everything else from this host
//	base+71  iif lo [uidrange A-B]       lookup P
//	base+98  TCP                         nop        see MTU
//	base+99  nop                                    END
//
// goto END rather than "lookup main" lets what is not captured go on through
// whatever rules the user has, as if ours were not there.
//
// Table T holds a device route for each captured prefix and a throw route for
// each prefix that stays out: --exclude, and, within a default route, the
// directly connected subnets and the link-local, multicast and broadcast
// ranges. The longest prefix wins, so that an explicit --route to one host of a
// connected subnet is captured and the rest of the subnet is not, and so that
// the user's own routes, however specific, don't matter: T is asked first.
//
// A socket that has no address yet (its routing lookup has source 0) is a new
// flow and is captured; the kernel then gives it the TUN's address and looks
// again. A lookup with any other source belongs to a connection from before, to
// an answer of a service on this host, or to the reverse-path check of a packet
// that came in: all of these stay where they are. That is why neither open
// connections nor inbound services nor rp_filter=1 mind, and why no rule has to
// follow the host's addresses. IPv6 has no way to match "no source"; but a
// source prefix never matches there while the source is unset, so two rules,
// from ::/1 and from 8000::/1, do the same.
//
// The rules for the stack's address are there from Open on. They ask for the
// incoming interface and not for the source: a packet of a container that this
// host masquerades is routed first, and has this host's address after.
//
// Capture proves itself: it asks the kernel where a new flow to each prefix would
// go, and fails if a foreign rule sends it elsewhere.
//
// # MTU
//
// The TUN's MTU is large because that makes TCP fast, and TCP ends in the stack.
// A datagram or an echo request goes on as it is: were the TUN's MTU its path's,
// the kernel would not fragment what exceeds the real one, and the stack could
// say so only when it is too late, as an error on a socket that did nothing
// wrong. So TCP has rules of its own, and all else is looked up in P: T once
// more, whose routes carry the MTU of the outbound path to their prefix as a
// metric, where that is lower than the TUN's. It is the one of the route that a
// socket of ours would take, or of its interface, and follows them. It isn't
// locked: of narrower places further on, the stack tells as a router would.
//
// A kernel before 4.17 ignores the protocol in a rule, so that T is for all. A
// packet that a filter made the kernel route again keeps its protocol only if
// some rule asks for one on any interface, as base+98 does. Forwarded traffic
// stays with T: no rule can say "TCP, and not from this host".
//
// # DNS
//
// With a default route, table D, for UDP with P's metrics, takes queries to the
// nameservers on connected subnets too; being routes, they are as crash-proof
// as all else, and no file has to be replaced. What routing can't move is
// systemd-resolved, which binds its queries to the link that a nameserver
// belongs to. The stack's nameserver is set there as the TUN's own, for every
// domain; that setting goes with the link.
//
// # What a crash leaves
//
// The device routes go with the TUN, and the TUN with the process. Rules and
// throw routes that remain lead nowhere and change nothing. Cleanup removes
// them: it knows ours by their protocol number (Protocol) and band. A band is in
// use as long as there is a route of a running daemon's TUN in the band's lock
// table: see type slot. So several daemons can run on one host, and a start can
// clean up after a dead one without harming a live one.
package netcfg
