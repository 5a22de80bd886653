package testbed

import (
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Wire is a slow link between two hosts. It has a TUN on each, without
// offloads, so that what it delays, loses and reorders are packets of an
// Ethernet's size.
//
//	A ─► read ─► lose some ─► queue, until it is time ─► write ─► B
//	              └─► hold some back, in a queue of their own ──►┘
//	A ◄─ the same the other way                                   ◄─ B
type Wire struct {
	ways  [2]*way
	tasks sync.WaitGroup
}

// Shape is how slow a Wire is. Both directions have the same.
type Shape struct {
	Delay   time.Duration // of a round trip: half of it each way
	Loss    float64       // the fraction of each way's packets that is lost
	Reorder float64       // the fraction that arrives ReorderBy later than the rest
}

const (
	// WireMTU is the MTU of both ends.
	WireMTU = 1500
	// WireQueue is how many packets are under way at most, each way; one more is
	// lost. It is also what the kernel's own queue before it should hold.
	WireQueue = 20_000
	// ReorderBy is how late a reordered packet is: some tens of packets at the
	// rates that a Wire carries.
	ReorderBy = 2 * time.Millisecond
	// wireTick is how exactly packets are in time: what is due within one is
	// written together.
	wireTick = time.Millisecond
)

// OpenWire makes the two ends, each under the same name in its host's
// namespace, and carries packets until Close.
func OpenWire(a, b *os.File, name string, s Shape) (*Wire, error) {
	var ends [2]*os.File
	for i, ns := range []*os.File{a, b} {
		err := Enter(ns, func() (err error) {
			ends[i], err = openTUN(name)
			return err
		})
		if err != nil {
			if i == 1 {
				ends[0].Close()
			}
			return nil, err
		}
	}
	w := &Wire{}
	for i := range ends {
		w.ways[i] = newWay(ends[i], ends[1-i], uint64(i))
	}
	w.Set(s)
	w.Seed(0)
	for _, way := range w.ways {
		w.tasks.Go(way.take)
		w.tasks.Go(func() { way.deliver(way.queue) })
		w.tasks.Go(func() { way.deliver(way.late) })
	}
	return w, nil
}

// Set changes the shape for the packets that follow.
func (w *Wire) Set(s Shape) {
	for _, way := range w.ways {
		way.shape.Store(&s)
	}
}

// Seed restarts the random numbers: after the same seed, the same of the
// packets that follow are lost and reordered.
func (w *Wire) Seed(n uint64) {
	for _, way := range w.ways {
		way.random.Store(rand.New(rand.NewPCG(n, way.id)))
	}
}

// Close takes both ends away and waits for its goroutines.
func (w *Wire) Close() {
	for _, way := range w.ways {
		_ = way.from.Close()
	}
	w.tasks.Wait()
}

// way is one direction.
type way struct {
	from, to    *os.File // TUNs
	id          uint64
	shape       atomic.Pointer[Shape]
	random      atomic.Pointer[rand.Rand]
	queue, late chan packet
	free        sync.Pool // *[WireMTU]byte
}

// packet is one under way.
type packet struct {
	due  time.Time
	size int
	data *[WireMTU]byte
}

func newWay(from, to *os.File, id uint64) *way {
	return &way{from: from, to: to, id: id, queue: make(chan packet, WireQueue), late: make(chan packet, WireQueue)}
}

// take reads packets, loses some, and queues the rest.
func (w *way) take() {
	defer close(w.queue)
	defer close(w.late)
	for {
		data, _ := w.free.Get().(*[WireMTU]byte)
		if data == nil {
			data = new([WireMTU]byte)
		}
		n, err := w.from.Read(data[:])
		if err != nil {
			return // closed, or the interface is gone
		}
		s, random := w.shape.Load(), w.random.Load()
		if random.Float64() < s.Loss {
			w.free.Put(data)
			continue
		}
		to, due := w.queue, time.Now().Add(s.Delay/2)
		if s.Reorder > 0 && random.Float64() < s.Reorder {
			to, due = w.late, due.Add(ReorderBy)
		}
		select {
		case to <- packet{due.Truncate(wireTick), n, data}:
		default:
			w.free.Put(data)
		}
	}
}

// deliver writes packets when they are due. All in one queue wait as long, so
// that they are due in order.
func (w *way) deliver(queue <-chan packet) {
	for p := range queue {
		time.Sleep(time.Until(p.due))
		_, _ = w.to.Write(p.data[:p.size]) // what the host has no room for is lost
		w.free.Put(p.data)
	}
}

// openTUN makes an end of the wire in this thread's namespace.
func openTUN(name string) (*os.File, error) {
	const path = "/dev/net/tun"
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("interface %s: %w", name, os.NewSyscallError("ioctl TUNSETIFF", err))
	}
	return os.NewFile(uintptr(fd), path), nil
}
