package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Wire is what the lab calls in the wire's process: the link between the hosts
// where it is to be a slow one. It has a TUN on each, under the veth's name and
// without offloads, so that what it delays and loses are packets of an
// Ethernet's size.
//
//	A: veth0 ─► read ─► lose some ─► queue, until it is time ─► write ─► B: veth0
//	A: veth0 ◄─ write ◄─ queue, until it is time ◄─ lose some ◄─ read ◄─ B: veth0
type Wire struct {
	ways [2]*way
}

// WireSpec is how slow it is, and where it ends.
type WireSpec struct {
	Delay time.Duration // of a round trip: half of it each way
	Loss  float64       // of each way's packets
	Peer  int           // a process on host B
}

const (
	wireMTU = 1500
	// wireQueue is how many packets are under way at most, each way; one more is
	// lost. It is also the length of the kernel's own queue before it.
	wireQueue = 20_000
	// wireTick is how exactly packets are in time: what is due within one is
	// written together.
	wireTick = time.Millisecond
)

// Open makes the TUNs, in this process's namespace and the peer's, and carries
// packets from then on.
func (w *Wire) Open(s WireSpec, _ *Nothing) error {
	a, err := openWireTUN()
	if err != nil {
		return err
	}
	b, err := openWireTUNIn(s.Peer)
	if err != nil {
		return err
	}
	for i, ends := range [2][2]int{{a, b}, {b, a}} {
		w.ways[i] = &way{
			from: ends[0], to: ends[1], delay: s.Delay / 2, loss: s.Loss,
			queue: make(chan packet, wireQueue), id: uint64(i),
		}
		w.ways[i].seed(0)
		go w.ways[i].take()
		go w.ways[i].deliver()
	}
	return nil
}

// Seed starts the losses anew: after the same number, the same of the packets
// that follow are lost.
func (w *Wire) Seed(n uint64, _ *Nothing) error {
	for _, way := range w.ways {
		way.seed(n)
	}
	return nil
}

// way is one direction. Its goroutines live as long as the process.
type way struct {
	from, to int // TUNs
	id       uint64
	delay    time.Duration
	loss     float64
	queue    chan packet
	free     sync.Pool // *[wireMTU]byte
	losses   atomic.Pointer[rand.Rand]
}

// packet is one under way.
type packet struct {
	due  time.Time
	size int
	data *[wireMTU]byte
}

func (w *way) seed(n uint64) { w.losses.Store(rand.New(rand.NewPCG(n, w.id))) }

// take reads packets, and loses some.
func (w *way) take() {
	for {
		data, _ := w.free.Get().(*[wireMTU]byte)
		if data == nil {
			data = new([wireMTU]byte)
		}
		n, err := readSome(w.from, data[:])
		if err != nil {
			return // the interface is gone, or was never up
		}
		if w.losses.Load().Float64() < w.loss {
			w.free.Put(data)
			continue
		}
		select {
		case w.queue <- packet{time.Now().Add(w.delay).Truncate(wireTick), n, data}:
		default:
			w.free.Put(data)
		}
	}
}

// deliver writes packets when they are due. All wait as long, so that they are
// due in order.
func (w *way) deliver() {
	for p := range w.queue {
		time.Sleep(time.Until(p.due))
		_, _ = unix.Write(w.to, p.data[:p.size]) // what the host has no room for is lost
		w.free.Put(p.data)
	}
}

// openWireTUN makes an end of the wire in this thread's namespace.
func openWireTUN() (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
	}
	ifr, err := unix.NewIfreq(veth)
	if err == nil {
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("ioctl TUNSETIFF", err)
	}
	return fd, nil
}

// openWireTUNIn makes one in the namespace of a process.
func openWireTUNIn(pid int) (fd int, err error) {
	ns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("namespace of process %d: %w", pid, err)
	}
	defer unix.Close(ns)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends in there
		if err = unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			err = os.NewSyscallError("setns", err)
			return
		}
		fd, err = openWireTUN()
	}()
	<-done
	return fd, err
}

// runWire serves the lab until that closes the connection.
func runWire(conn net.Conn) error { return serveCalls(conn, &Wire{}) }

// startWire joins this namespace to that of the server.
func (l *lab) startWire(ctx context.Context) (err error) {
	if l.wire, err = startPeer(ctx, roleWire, &syscall.SysProcAttr{}); err != nil {
		return err
	}
	return l.wire.call("Open", WireSpec{Delay: l.cfg.Delay, Loss: l.cfg.Loss, Peer: l.server.cmd.Process.Pid}, &Nothing{})
}
