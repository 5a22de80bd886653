//go:build !linux

package tun

import (
	"errors"
	"fmt"
	"runtime"
)

// Device is a TUN device. There is none on this system.
type Device struct{}

func unsupported() error {
	return fmt.Errorf("tun: %w on %s: run it on Linux", errors.ErrUnsupported, runtime.GOOS)
}

// Open returns an error that wraps [errors.ErrUnsupported].
func Open(Config) (*Device, error) { return nil, unsupported() }

// FromFD returns an error that wraps [errors.ErrUnsupported].
func FromFD(Config, ...int) (*Device, error) { return nil, unsupported() }

// Name returns "".
func (*Device) Name() string { return "" }

// Index returns an error that wraps [errors.ErrUnsupported].
func (*Device) Index() (int, error) { return 0, unsupported() }

// MTU returns an error that wraps [errors.ErrUnsupported].
func (*Device) MTU() (int, error) { return 0, unsupported() }

// SetMTU returns an error that wraps [errors.ErrUnsupported].
func (*Device) SetMTU(int) error { return unsupported() }

// Queues returns 0.
func (*Device) Queues() int { return 0 }

// VNetHdr reports false.
func (*Device) VNetHdr() bool { return false }

// TSO reports false.
func (*Device) TSO() bool { return false }

// USO reports false.
func (*Device) USO() bool { return false }

// ReadPacket returns an error that wraps [errors.ErrUnsupported].
func (*Device) ReadPacket(int, *[HdrLen]byte, [][]byte) (int, error) { return 0, unsupported() }

// WritePacket returns an error that wraps [errors.ErrUnsupported].
func (*Device) WritePacket(int, *[HdrLen]byte, [][]byte) error { return unsupported() }

// Stats returns zeros.
func (*Device) Stats() Stats { return Stats{} }

// Close does nothing.
func (*Device) Close() error { return nil }
