package tun_test

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"netstackd/tun"
)

// socketSide plays the kernel at the far end of a pair of sockets, so that
// the Linux device is tested without privilege.
type socketSide struct {
	fd         int
	info, vnet bool
}

// before is what comes before each packet.
func (s socketSide) before(version byte) []byte {
	var b []byte
	if s.info && version == 6 {
		b = append(b, 0, 0, 0x86, 0xdd)
	} else if s.info {
		b = append(b, 0, 0, 0x08, 0x00)
	}
	if s.vnet {
		b = append(b, make([]byte, tun.HdrLen)...)
	}
	return b
}

func (s socketSide) Send(t *testing.T, payload []byte) {
	if _, err := unix.Write(s.fd, append(s.before(4), udpPacket(kernelEnd, deviceEnd, payload)...)); err != nil {
		t.Fatal(err)
	}
}

func (s socketSide) Receive(t *testing.T) []byte {
	before := s.before(4)
	for {
		b := make([]byte, 1<<16)
		n, err := unix.Read(s.fd, b)
		if err != nil {
			t.Fatal(err)
		}
		if string(b[:len(before)]) != string(before) {
			t.Fatalf("written before the packet: %x, want %x", b[:len(before)], before)
		}
		if payload := udpPayload(b[len(before):n], kernelEnd); payload != nil {
			return payload
		}
	}
}

func (socketSide) Delete(*testing.T) bool { return false }

// openSocket returns a device on one end of a pair of sockets.
func openSocket(t *testing.T, info, vnet bool) (*tun.Device, socketSide) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[1]) })
	// Room for the packets of a whole test.
	for _, fd := range fds {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4<<20); err != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<20)
		}
	}
	d, err := tun.FromSocket(info, vnet, fds[0])
	if err != nil {
		t.Fatal(err)
	}
	return d, socketSide{fds[1], info, vnet}
}

func TestSocketConformance(t *testing.T) {
	for name, f := range map[string]struct{ info, vnet bool }{
		"vnet": {false, true}, "plain": {false, false}, "info": {true, false}, "info+vnet": {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			testDevice(t, func(t *testing.T) (device, side) { return openSocket(t, f.info, f.vnet) })
		})
	}
}

// TestWriteWaits fills the way to the kernel: the write that finds no room
// waits for it, and Close ends the wait.
func TestWriteWaits(t *testing.T) {
	d, s := openSocket(t, false, true)
	defer d.Close()
	var hdr [tun.HdrLen]byte
	packet := [][]byte{udpPacket(deviceEnd, kernelEnd, make([]byte, 60000))}
	const packets = 300 // more than fit
	failed := make(chan error, 1)
	go func() {
		for range packets {
			if err := d.WritePacket(0, &hdr, packet); err != nil {
				failed <- err
				return
			}
		}
		failed <- nil
	}()
	for range packets {
		if n := len(s.Receive(t)); n != 60000 {
			t.Fatalf("received %d bytes, want 60000", n)
		}
	}
	if err := <-failed; err != nil {
		t.Fatalf("WritePacket = %v", err)
	}
	go func() {
		for {
			if err := d.WritePacket(0, &hdr, packet); err != nil {
				failed <- err
				return
			}
		}
	}()
	s.Receive(t) // it is at it
	if err := d.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
	if err := <-failed; !errors.Is(err, os.ErrClosed) {
		t.Errorf("WritePacket = %v, want os.ErrClosed", err)
	}
}
