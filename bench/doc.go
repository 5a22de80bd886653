// Package bench measures netstackd, and other programs that do the same work,
// on the machine that it runs on.
//
// # Theory of operation
//
// Run starts this program again, in a network namespace of its own and, for
// who isn't root, a user namespace around it. That process is the lab. It
// makes the second host of a small network, and starts on the first one the
// programs that are measured:
//
//	A: lab, client agent, programs ──veth── B: server agent
//	   10.77.0.1                               10.77.0.2, and all of 10.128.0.0/9
//
// Each program is given a /16 of B's addresses to carry, the kernel's routed
// path the first of them, so that a destination says which way a connection
// takes. The agents are this program a third time, one process each, so that
// the daemon's processor time is its own. They are told what to send by net/rpc
// over a socketpair, and send it from threads that block in plain system calls:
// what generates the load costs little beside what carries it.
//
// A measurement lets a load run, waits until it has started up, and takes the
// counters of agents, program and TUN, twice. Bytes are counted where they
// arrive. Within one run the paths take turns in each test, and a ratio is
// the median of the runs' own ratios, so that a machine that slows down slows
// all of them.
//
// Where the configuration says that the link is slow, a process takes the place
// of the veth (see Wire).
//
// Every measurement proves its path: what arrived by way of a TUN must have
// moved that TUN's counters by as much, and what should have gone past it must
// not have moved them.
//
// The namespaces have no name: the kernel removes them, and with them every
// interface, address and route, when the last process in them ends. Children
// are ended by their pid, and by the kernel when their parent dies.
package bench
