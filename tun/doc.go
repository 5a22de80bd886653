// Package tun opens or adopts a Linux TUN device and moves whole IP packets
// through it, with the offloads of the virtio header, on several queues. On
// other systems it compiles, and opening returns [errors.ErrUnsupported].
//
// # Theory of operation
//
// A TUN is a network interface whose other end is a file descriptor. A read
// returns one packet that the kernel sent; a write passes one packet to the
// kernel (Documentation/networking/tuntap.rst in the kernel). A packet may be
// larger than the MTU, which is what makes a TUN fast. With IFF_VNET_HDR a
// struct virtio_net_hdr comes before each packet and describes the work that is
// left. TUNSETOFFLOAD tells the kernel which work we do ourselves:
//
//   - compute a checksum (TUN_F_CSUM),
//   - split up to 64 KB into TCP segments (TUN_F_TSO4, TUN_F_TSO6),
//   - split a train into UDP datagrams of one size (TUN_F_USO4, TUN_F_USO6;
//     Linux 6.2).
//
// The kernel accepts the same from us. This package passes the header on as ten
// bytes and does not interpret it. Header and buffers go to readv(2) and
// writev(2) unchanged: the kernel copies a packet once, and nothing is
// allocated.
//
// An interface has one queue for each descriptor that was opened for it
// (IFF_MULTI_QUEUE). The kernel spreads flows over the queues. It sends a flow
// on the queue on which the flow's last packet was written, so write each flow
// on one queue. One goroutine reads a queue; any number may write it.
//
// # Waiting
//
// A read tries, yields to the scheduler once, tries again, and only then waits
// in the runtime's network poller. Two alternatives were measured, with a second
// goroutine that answers the packets (BenchmarkRoundTrip, two cores):
//
//   - Without the yield, a processor that has other goroutines to run seldom
//     checks the poller, and only the poller wakes the reader. A round trip
//     then takes 12 ms instead of 0.6 ms. With the yield the other goroutines
//     run first, and the second try mostly finds packets. The cost is one more
//     readv(2) before a wait. On an idle machine a round trip takes 12 µs with
//     the yield and 14 µs without.
//   - A thread that blocks in poll(2) or read(2) keeps its processor until the
//     runtime takes it away, and another thread must wake up for the answer:
//     110 to 160 µs instead of 12 µs. In the daemon, a connect then took 1.5
//     times as long.
//
// A write does not wait, unless the creator of an adopted descriptor limited its
// send buffer (TUNSETSNDBUF). It is one system call without a lock, so writers
// of one queue do not wait for each other. Reads and writes cost 0.1 to 0.2 µs
// more than the system calls alone, which take 2 µs (BenchmarkRead,
// BenchmarkWrite).
//
// # Errors
//
// A write fails while memory is short or the interface is down. The packet is
// lost, and the next write may succeed. After the interface was deleted, reads
// and writes return [ErrGone], also a read that waits. After Close they return
// an error that wraps [os.ErrClosed]. The kernel silently truncates a packet
// that is larger than the buffers of a read. One spare byte behind the buffers
// detects this, and the read returns [ErrTruncated].
//
// # Adopted descriptors
//
// FromFD takes descriptors that another program has set up, in any network
// namespace. The descriptor itself tells the interface's name and offloads. The
// MTU needs a socket in the namespace of the interface. Where this process may
// not enter that namespace, the Config must give the MTU.
package tun
