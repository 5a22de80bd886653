// Package tun opens or adopts a Linux TUN device and moves whole IP packets
// through it, with the offloads of the virtio header, on several queues. On
// other systems it compiles, and opening returns [errors.ErrUnsupported].
//
// # Theory of operation
//
// A TUN is a network interface whose other end is a file descriptor: one
// read is one packet that the kernel sent, one write one that it receives
// (Documentation/networking/tuntap.rst in the kernel). What makes it fast is
// that a packet needn't be one that fits the MTU. With IFF_VNET_HDR each one
// comes after a struct virtio_net_hdr, which says what is left to be done to
// it, and TUNSETOFFLOAD tells the kernel that we take it like that:
//
//   - a checksum that is still to be computed (TUN_F_CSUM),
//   - TCP segments not cut up yet, up to 64 KB of them (TUN_F_TSO4, _TSO6),
//   - a train of UDP datagrams of one size (TUN_F_USO4, _USO6; Linux 6.2).
//
// The kernel takes the same from us. The header passes through this package as
// ten bytes that it doesn't look into. It and the packet's buffers go to
// readv(2) and writev(2) as they are: a packet is copied once, by the kernel,
// and nothing is allocated for it.
//
// An interface has as many queues as it was opened with fds
// (IFF_MULTI_QUEUE). The kernel spreads flows over them, and sends each on the
// queue that the flow's last packet was written on; so write each flow on one
// queue. One goroutine reads a queue, any number may write it.
//
// # Waiting
//
// A read tries, yields to the scheduler once and tries again, and only then
// waits in the runtime's network poller. The alternatives were measured with
// a second goroutine that answers what the first has read
// (BenchmarkRoundTrip, two cores):
//
//   - Without the yield, a processor with other goroutines to run seldom
//     gets round to the poller, which is all that would wake the reader: a
//     round trip then takes 12 ms in place of 0.6. With it, the reader's turn
//     comes when everyone has had theirs, and mostly finds packets waiting.
//     It costs one more readv(2) before a wait; on an idle machine a round
//     trip takes 12 µs with it and 14 without.
//   - A thread that blocks in poll(2) or read(2) takes its processor along
//     until the runtime misses it, and the answering goroutine needs another
//     thread to be woken: 110 to 160 µs instead of 12. Through the whole
//     daemon that made a connect half as slow again.
//
// A write never waits, unless whoever made an adopted fd limited its send
// buffer (TUNSETSNDBUF). It is one system call under no lock: writers of one
// queue don't wait for one another. Reads and writes cost 0.1 to 0.2 µs more
// than the bare system calls, which take 2 (BenchmarkRead, BenchmarkWrite).
//
// # Trouble
//
// When memory is short or the interface is down a write fails and the next may
// not: such packets are to be counted and forgotten. When the interface is
// deleted reads and writes give [ErrGone], also the one that waits. After Close
// they give an error that wraps [os.ErrClosed]. The kernel cuts off what
// doesn't fit the buffers of a read without a word; a spare byte behind them
// finds out, and the read gives [ErrTruncated].
//
// # Adopted descriptors
//
// FromFD takes fds that another program has set up, in any network namespace.
// The name and the offloads of an interface are asked of its fd. For the MTU a
// socket in its namespace is needed; where we may not enter that, the Config
// has to say it.
package tun
