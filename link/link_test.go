package link_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"netstackd/link"
	"netstackd/tun"
	"netstackd/tun/tuntest"
)

var (
	_ link.Device = (*tuntest.Device)(nil)
	_ link.Device = (*tun.Device)(nil)
)

func TestAttachStartsAndStops(t *testing.T) {
	dev := tuntest.New(tuntest.Config{Queues: 3})
	e, err := link.New(dev, link.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if e.IsAttached() || e.MTU() != 1500 || e.GSOMaxSize() != 65535 || !e.USO() {
		t.Fatalf("attached %v mtu %d", e.IsAttached(), e.MTU())
	}
	s := newSink()
	e.Attach(s)
	e.Attach(s) // the same dispatcher again changes nothing
	if !e.IsAttached() {
		t.Fatal("not attached")
	}
	for q := range 3 {
		if err := dev.Inject(t.Context(), tuntest.Packet{Queue: q, Data: udpPacket(v4a, v4b, []byte{byte(q)})}); err != nil {
			t.Fatal(err)
		}
		s.next(t)
	}
	e.Attach(nil)
	if e.IsAttached() {
		t.Fatal("still attached")
	}
	e.Wait() // joined already, so this returns at once
	if _, err := dev.ReadPacket(0, new([link.VNetHdrLen]byte), nil); !errors.Is(err, os.ErrClosed) {
		t.Fatalf("the device is open: %v", err)
	}
	if err := e.Err(); err != nil {
		t.Fatalf("a stop was taken for a failure: %v", err)
	}
	select {
	case <-e.Done():
		t.Fatal("done")
	default:
	}
	closed := 0
	e.SetOnCloseAction(func() { closed++ })
	e.Close()
	e.Close()
	if closed != 1 {
		t.Fatalf("close action ran %d times", closed)
	}
}

func TestNewReportsDeviceError(t *testing.T) {
	if _, err := link.New(mtuless{tuntest.New(tuntest.Config{})}, link.Config{}); !errors.Is(err, syscall.ENODEV) {
		t.Fatalf("error %v", err)
	}
}

type mtuless struct{ *tuntest.Device }

func (mtuless) MTU() (int, error) { return 0, syscall.ENODEV }

func TestDeviceFailureEndsEndpoint(t *testing.T) {
	dev := tuntest.New(tuntest.Config{Queues: 2})
	e := open(t, dev, link.Config{}, newSink())
	if e.Err() != nil {
		t.Fatal(e.Err())
	}
	dev.Delete()
	select {
	case <-e.Done():
	case <-time.After(patience):
		t.Fatal("the deleted interface went unnoticed")
	}
	if err := e.Err(); !errors.Is(err, tun.ErrGone) {
		t.Fatalf("error %v", err)
	}
}

func TestDeviceFailureDuringStop(t *testing.T) {
	dev := &failing{Device: tuntest.New(tuntest.Config{}), closed: make(chan struct{})}
	e, err := link.New(dev, link.Config{})
	if err != nil {
		t.Fatal(err)
	}
	e.Attach(newSink())
	e.Attach(nil) // the read fails with an unknown error, but because we closed
	if err := e.Err(); err != nil {
		t.Fatalf("error %v", err)
	}
}

// With the stack stalled and its queue full, the reader waits: what it does
// not read stays with the device, and nothing is lost.
func TestFullQueueMakesReaderWait(t *testing.T) {
	const queueLen, batch, depth, total = 8, 4, 16, 200
	dev := tuntest.New(tuntest.Config{Depth: depth})
	s := newSink()
	s.gate = make(chan struct{})
	e := open(t, dev, link.Config{QueueLen: queueLen, Batch: batch}, s)
	// The deliverer holds up to a batch and the reader one packet. One more
	// than all of these can hold waits outside.
	const held = queueLen + batch + depth + 1
	in := make(chan error, 1)
	go func() {
		for i := range total {
			err := dev.Inject(context.Background(), tuntest.Packet{Hdr: dataValid, Data: udpPacket(v4a, v4b, fmt.Appendf(nil, "%d", i))})
			if err != nil {
				in <- err
				return
			}
		}
		in <- nil
	}()
	for e.Stats().QueueWaits == 0 {
		select {
		case err := <-in:
			t.Fatalf("%d packets were taken from the device, more than %d: %v", total, held, err)
		case <-t.Context().Done():
			return
		default:
			runtime.Gosched()
		}
	}
	go func() {
		for range total {
			s.gate <- struct{}{}
		}
	}()
	for i := range total {
		d := s.next(t)
		if got, want := string(d.data[28:]), fmt.Sprint(i); got != want {
			t.Fatalf("packet %q, want %q", got, want)
		}
	}
	if err := <-in; err != nil {
		t.Fatal(err)
	}
	if st := e.Stats(); st.RxPackets != total || st.RxMalformed+st.RxBadChecksum != 0 || dev.Dropped() != 0 {
		t.Fatalf("stats %+v, dropped %d", st, dev.Dropped())
	}
}

// A stop must not hang on a reader that waits for room, nor leak its packets.
func TestStopWithFullQueue(t *testing.T) {
	dev := tuntest.New(tuntest.Config{})
	s := newSink()
	s.gate = make(chan struct{})
	e, err := link.New(dev, link.Config{QueueLen: 2, Batch: 1})
	if err != nil {
		t.Fatal(err)
	}
	e.Attach(s)
	for range 50 {
		inject(t, dev, dataValid, udpPacket(v4a, v4b, nil))
	}
	for e.Stats().QueueWaits == 0 {
		runtime.Gosched()
	}
	stopped := make(chan struct{})
	go func() {
		e.Attach(nil)
		close(stopped)
	}()
	for {
		select {
		case s.gate <- struct{}{}: // what is queued is still delivered
		case <-stopped:
			return
		case <-time.After(patience):
			t.Fatal("the stop hangs")
		}
	}
}

func TestFlushFollowsBatches(t *testing.T) {
	dev := tuntest.New(tuntest.Config{})
	s := newSink()
	flushed := make(chan int, 100)
	open(t, dev, link.Config{Flush: func() { flushed <- len(s.packets) }}, s)
	for i := range 3 {
		inject(t, dev, dataValid, udpPacket(v4a, v4b, nil))
		if n := <-flushed; n != i+1 {
			t.Fatalf("flush after %d deliveries, want %d", n, i+1)
		}
	}
}
