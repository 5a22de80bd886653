package pcap_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"netstackd/internal/pcap"
	"netstackd/link"
)

// sink is a device that takes every packet.
type sink struct{ link.Device }

func (sink) WritePacket(int, *[link.VNetHdrLen]byte, [][]byte) error { return nil }
func (sink) Close() error                                            { return nil }

// A capture that can't be written whole says so when it happens, where that is
// before the end, and once.
func TestCaptureFullDisk(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("/dev/full is Linux's")
	}
	for _, tt := range []struct {
		name    string
		packets int
		said    int
	}{
		{"at the end", 1, 0},
		{"before the end", 40, 1}, // of 64 KB each, with 1 MB of buffer
	} {
		t.Run(tt.name, func(t *testing.T) {
			said := 0
			c, err := pcap.Record(sink{}, "/dev/full", func(error) { said++ })
			if err != nil {
				t.Fatal(err)
			}
			for range tt.packets {
				if err := c.WritePacket(0, nil, [][]byte{make([]byte, 64<<10)}); err != nil {
					t.Errorf("a packet fails with the capture: %v", err)
				}
			}
			if err := c.Close(); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("Close: %v, want ENOSPC", err)
			}
			if err := c.Err(); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("Err: %v, want ENOSPC", err)
			}
			if said != tt.said {
				t.Errorf("failed was called %d times, want %d", said, tt.said)
			}
		})
	}
}

// A whole one has no error, also after a second Close.
func TestCaptureWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pcap")
	c, err := pcap.Record(sink{}, path, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	if err := c.WritePacket(0, nil, [][]byte{make([]byte, 60), make([]byte, 40)}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Close(), c.Close(), c.Err()); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != 24+16+100 {
		t.Errorf("%v, %v; want 140 bytes", info.Size(), err)
	}
}
