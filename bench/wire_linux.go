package bench

import (
	"context"
	"fmt"
	"net"
	"os"
	"syscall"

	"netstackd/bench/testbed"
)

// Wire is what the lab calls in the wire's process: the link between the hosts
// where it is to be a slow one, under the veth's name on both.
type Wire struct {
	link *testbed.Wire
}

// WireSpec is how slow it is, and where it ends.
type WireSpec struct {
	testbed.Shape
	Peer int // a process on host B
}

// Open makes the link, from this process's namespace to the peer's.
func (w *Wire) Open(s WireSpec, _ *Nothing) error {
	a, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", s.Peer))
	if err != nil {
		return err
	}
	defer b.Close()
	w.link, err = testbed.OpenWire(a, b, veth, s.Shape)
	return err
}

// Seed is the link's.
func (w *Wire) Seed(n uint64, _ *Nothing) error {
	w.link.Seed(n)
	return nil
}

// runWire serves the lab until that closes the connection.
func runWire(conn net.Conn) error { return serveCalls(conn, &Wire{}) }

// startWire joins this namespace to that of the server.
func (l *lab) startWire(ctx context.Context) (err error) {
	if l.wire, err = startPeer(ctx, roleWire, &syscall.SysProcAttr{}); err != nil {
		return err
	}
	shape := testbed.Shape{Delay: l.cfg.Delay, Loss: l.cfg.Loss}
	return l.wire.call("Open", WireSpec{shape, l.server.cmd.Process.Pid}, &Nothing{})
}
