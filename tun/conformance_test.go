package tun_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"netstackd/tun"
	"netstackd/tun/tuntest"
)

// device is what a user of a TUN needs of it.
type device interface {
	Queues() int
	VNetHdr() bool
	USO() bool
	MTU() (int, error)
	ReadPacket(queue int, hdr *[tun.HdrLen]byte, bufs [][]byte) (int, error)
	WritePacket(queue int, hdr *[tun.HdrLen]byte, bufs [][]byte) error
	Stats() tun.Stats
	Close() error
}

var (
	_ device = (*tun.Device)(nil)
	_ device = (*tuntest.Device)(nil)
)

// The ends of the test's datagrams: one address is the kernel's, the other routed to the device.
var (
	kernelEnd = netip.MustParseAddrPort("10.77.0.1:5000")
	deviceEnd = netip.MustParseAddrPort("10.77.0.2:6000")
)

// side is the other side of a device: the kernel, or who plays it.
type side interface {
	// Send has a datagram with the payload, from kernelEnd to deviceEnd, read from the device.
	Send(t *testing.T, payload []byte)
	// Receive returns the payload of the next datagram to kernelEnd that was written to it.
	Receive(t *testing.T) []byte
	// Delete deletes the interface. It reports false if there is none to delete.
	Delete(t *testing.T) bool
}

// testDevice is the suite that every device must pass. Each of open's devices is
// used for one test, which closes it.
func testDevice(t *testing.T, open func(*testing.T) (device, side)) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, device, side)
	}{
		{"RoundTrip", testRoundTrip},
		{"Pieces", testPieces},
		{"Truncated", testTruncated},
		{"ConcurrentWrites", testConcurrentWrites},
		{"CloseWakesRead", testCloseWakesRead},
		{"Closed", testClosed},
		{"Gone", testGone},
		{"NoAllocations", testNoAllocations},
	} {
		t.Run(test.name, func(t *testing.T) {
			d, s := open(t)
			t.Cleanup(func() {
				if err := d.Close(); err != nil {
					t.Errorf("Close = %v", err)
				}
			})
			test.run(t, d, s)
		})
	}
}

// readUDP reads until there is a datagram to deviceEnd and returns its payload.
// A kernel has some words of its own to say on a new interface.
func readUDP(t *testing.T, d device, bufs [][]byte) []byte {
	t.Helper()
	for {
		hdr := [tun.HdrLen]byte{0xff}
		n, err := d.ReadPacket(0, &hdr, bufs)
		if err != nil {
			t.Fatalf("ReadPacket = %d, %v", n, err)
		}
		if payload := udpPayload(bytes.Join(bufs, nil)[:n], deviceEnd); payload != nil {
			if hdr[0] == 0xff || hdr[1] != 0 {
				t.Errorf("header of a plain packet is %x", hdr)
			}
			return payload
		}
	}
}

func testRoundTrip(t *testing.T, d device, s side) {
	before := d.Stats()
	var hdr [tun.HdrLen]byte
	buf := make([]byte, 65535)
	for _, size := range []int{1, 100, 1472} {
		want := pattern(size, 1)
		s.Send(t, want)
		if got := readUDP(t, d, [][]byte{buf}); !bytes.Equal(got, want) {
			t.Errorf("read a payload of %d bytes that differs from the %d sent", len(got), size)
		}
		want = pattern(size, 2)
		if err := d.WritePacket(0, &hdr, [][]byte{udpPacket(deviceEnd, kernelEnd, want)}); err != nil {
			t.Fatalf("WritePacket = %v", err)
		}
		if got := s.Receive(t); !bytes.Equal(got, want) {
			t.Errorf("received a payload of %d bytes that differs from the %d written", len(got), size)
		}
	}
	st := d.Stats()
	packets, bytes := st.WritePackets-before.WritePackets, st.WriteBytes-before.WriteBytes
	if packets != 3 || bytes != 3*28+1573 || st.ReadPackets < 3 || st.ReadBytes < bytes {
		t.Errorf("Stats = %+v, want 3 packets of 1657 bytes more written than %+v, and no less read", st, before)
	}
}

// testPieces reads into and writes from many buffers, more than one system call takes.
func testPieces(t *testing.T, d device, s side) {
	var hdr [tun.HdrLen]byte
	for _, n := range []int{2, 14, 15, 40, 1022, 1023, 1472} {
		want := pattern(1400, byte(n))
		packet := udpPacket(deviceEnd, kernelEnd, want)
		if err := d.WritePacket(0, &hdr, pieces(packet, n)); err != nil {
			t.Fatalf("WritePacket in %d pieces = %v", n, err)
		}
		if got := s.Receive(t); !bytes.Equal(got, want) {
			t.Errorf("a packet in %d pieces arrived differently", n)
		}
		if n > 1000 {
			continue
		}
		s.Send(t, want)
		if got := readUDP(t, d, pieces(make([]byte, 1500), n)); !bytes.Equal(got, want) {
			t.Errorf("a packet read into %d pieces is not what was sent", n)
		}
	}
}

// testTruncated reads into buffers that are one byte too short, then into some that just fit.
func testTruncated(t *testing.T, d device, s side) {
	s.Send(t, pattern(100, 3))
	var hdr [tun.HdrLen]byte
	buf := make([]byte, 127)
	n, err := 0, error(nil)
	for err == nil { // what else the kernel says is shorter
		n, err = d.ReadPacket(0, &hdr, [][]byte{buf[:28], buf[28:]})
	}
	if n != 127 || !errors.Is(err, tun.ErrTruncated) {
		t.Fatalf("ReadPacket = %d, %v; want 127, ErrTruncated", n, err)
	}
	if want := udpPacket(kernelEnd, deviceEnd, pattern(100, 3)); !bytes.Equal(buf[28:], want[28:127]) {
		t.Error("a truncated packet isn't the start of what was sent")
	}
	s.Send(t, pattern(100, 4))
	if got := readUDP(t, d, [][]byte{make([]byte, 28), make([]byte, 100)}); !bytes.Equal(got, pattern(100, 4)) {
		t.Error("the packet after a truncated one differs from what was sent")
	}
	if st := d.Stats(); st.Truncated != 1 {
		t.Errorf("Stats.Truncated = %d, want 1", st.Truncated)
	}
}

func testConcurrentWrites(t *testing.T, d device, s side) {
	const writers, each = 4, 50
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			var hdr [tun.HdrLen]byte
			for i := range each {
				packet := udpPacket(deviceEnd, kernelEnd, fmt.Appendf(nil, "%d/%d", w, i))
				if err := d.WritePacket(0, &hdr, [][]byte{packet[:20], packet[20:]}); err != nil {
					t.Errorf("WritePacket = %v", err)
				}
			}
		})
	}
	var next [writers]int
	for range writers * each {
		var w, i int
		got := string(s.Receive(t))
		if _, err := fmt.Sscanf(got, "%d/%d", &w, &i); err != nil || next[w] != i {
			t.Fatalf("received %q, want number %d of that writer", got, next[w])
		}
		next[w]++
	}
	wg.Wait()
}

func testCloseWakesRead(t *testing.T, d device, _ side) {
	var wg sync.WaitGroup
	for q := range d.Queues() {
		wg.Go(func() {
			var hdr [tun.HdrLen]byte
			for {
				_, err := d.ReadPacket(q, &hdr, [][]byte{make([]byte, 65535)})
				if err == nil {
					continue // the kernel's own words
				}
				if !errors.Is(err, os.ErrClosed) {
					t.Errorf("ReadPacket = %v, want os.ErrClosed", err)
				}
				return
			}
		})
	}
	if err := d.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
	wg.Wait()
}

func testClosed(t *testing.T, d device, _ side) {
	for range 2 {
		if err := d.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
	}
	var hdr [tun.HdrLen]byte
	packet := udpPacket(deviceEnd, kernelEnd, nil)
	if _, err := d.ReadPacket(0, &hdr, [][]byte{packet}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("ReadPacket = %v, want os.ErrClosed", err)
	}
	if err := d.WritePacket(0, &hdr, [][]byte{packet}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("WritePacket = %v, want os.ErrClosed", err)
	}
}

// testGone deletes the interface under a reader that waits or is about to.
func testGone(t *testing.T, d device, s side) {
	failed := make(chan error, 1)
	go func() {
		for {
			var hdr [tun.HdrLen]byte
			if _, err := d.ReadPacket(0, &hdr, [][]byte{make([]byte, 65535)}); err != nil {
				failed <- err
				return
			}
		}
	}()
	if !s.Delete(t) {
		d.Close()
		<-failed
		t.Skip("nothing to delete")
	}
	if err := <-failed; !errors.Is(err, tun.ErrGone) || errors.Is(err, os.ErrClosed) {
		t.Errorf("ReadPacket = %v, want ErrGone", err)
	}
	var hdr [tun.HdrLen]byte
	if err := d.WritePacket(0, &hdr, [][]byte{udpPacket(deviceEnd, kernelEnd, nil)}); !errors.Is(err, tun.ErrGone) {
		t.Errorf("WritePacket = %v, want ErrGone", err)
	}
}

func testNoAllocations(t *testing.T, d device, s side) {
	var hdr [tun.HdrLen]byte
	bufs := pieces(make([]byte, 1500), 2)
	for _, n := range []int{2, 40} {
		out := pieces(udpPacket(deviceEnd, kernelEnd, pattern(1000, 5)), n)
		if got := testing.AllocsPerRun(100, func() { _ = d.WritePacket(0, &hdr, out) }); got > 0 && !kept(d) && !raceDetector {
			t.Errorf("WritePacket in %d pieces: %v allocations, want 0", n, got)
		}
	}
	const runs, more = 100, 50 // a busy kernel may drop a datagram
	for range runs + 1 + more {
		s.Send(t, pattern(1000, 6))
	}
	hung := time.AfterFunc(10*time.Second, func() { d.Close() })
	defer hung.Stop()
	var failed error
	got := testing.AllocsPerRun(runs, func() {
		if _, err := d.ReadPacket(0, &hdr, bufs); err != nil {
			failed = err
		}
	})
	if failed != nil {
		t.Fatalf("fewer than %d of %d datagrams came: %v", runs+1, runs+1+more, failed)
	}
	if got > 0 {
		t.Errorf("ReadPacket: %v allocations, want 0", got)
	}
}

// kept reports whether what is written to d is kept by the test, and so has to be allocated.
func kept(d device) bool {
	_, memory := d.(*tuntest.Device)
	return memory
}
