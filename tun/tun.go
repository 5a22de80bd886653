package tun

// Config says what interface to open. The zero value is an interface that the
// kernel names, with one queue per core and the kernel's MTU.
type Config struct {
	// Name of the interface, at most 15 bytes; "%d" in it is replaced by the
	// kernel with the first free number. Empty means "tun%d".
	Name string

	// Queues to open; 0 means one per core. An existing interface that was made
	// for a single queue is opened with one.
	Queues int

	// MTU to give the interface, in bytes; 0 leaves it alone. For an adopted fd
	// it is the value that Device.MTU returns when the interface can't be asked.
	MTU int

	// Plain opens the interface without a virtio header: no offloads, and
	// packets of at most MTU bytes both ways.
	Plain bool
}

// HdrLen is the length of struct virtio_net_hdr (linux/virtio_net.h) as it
// comes before each packet, without num_buffers. Its fields are little-endian
// on every machine.
const HdrLen = 10

// Stats is a snapshot of a device's counters since it was opened.
type Stats struct {
	ReadPackets  uint64 // super-packets count once
	ReadBytes    uint64
	Truncated    uint64 // packets read that were longer than the buffers
	WritePackets uint64
	WriteBytes   uint64
	WriteErrors  uint64 // packets that the kernel refused
}
