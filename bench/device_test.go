//go:build linux

package bench_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"netstackd/internal/testnet"
	"netstackd/tun"
)

// A tunnel is a TUN in a network namespace of its own. Sockets that are to be
// in there, too, are made by in.
type tunnel struct {
	dev *tun.Device
	fd  int // of the bare loop's TUN, when dev is nil
	in  func(fn func() error) error
}

// newTunnel makes a TUN with one queue, opened by package tun or, bare, by the
// system calls themselves.
func newTunnel(b *testing.B, plain, bare bool) *tunnel {
	b.Helper()
	testnet.RequireRoot(b)
	calls, results := make(chan func() error), make(chan error)
	go func() {
		// The thread is in the namespace until it ends with this goroutine.
		runtime.LockOSThread()
		for fn := range calls {
			results <- fn()
		}
	}()
	b.Cleanup(func() { close(calls) })
	t := &tunnel{in: func(fn func() error) error {
		calls <- fn
		return <-results
	}}
	err := t.in(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		if err := t.open(plain, bare); err != nil {
			return err
		}
		cmd := exec.Command("ip", "-batch", "-")
		cmd.Stdin = strings.NewReader("link set tun0 mtu 65000 up\naddr add 198.18.0.1/30 dev tun0\nroute add 10.0.0.0/8 dev tun0\n")
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("ip: %w: %s", err, out)
		}
		// Only the benchmark sends: no router solicitations.
		return os.WriteFile("/proc/sys/net/ipv6/conf/tun0/disable_ipv6", []byte("1"), 0)
	})
	if err != nil {
		b.Fatal(err)
	}
	return t
}

func (t *tunnel) open(plain, bare bool) (err error) {
	if !bare {
		t.dev, err = tun.Open(tun.Config{Name: "tun0", Queues: 1, Plain: plain})
		return err
	}
	if t.fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	req, err := unix.NewIfreq("tun0")
	if err != nil {
		return err
	}
	flags := unix.IFF_TUN | unix.IFF_NO_PI
	if !plain {
		flags |= unix.IFF_VNET_HDR
	}
	req.SetUint16(uint16(flags))
	if err := unix.IoctlIfreq(t.fd, unix.TUNSETIFF, req); err != nil || plain {
		return err
	}
	return unix.IoctlSetInt(t.fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6|unix.TUN_F_USO4|unix.TUN_F_USO6)
}

func (t *tunnel) close(b *testing.B) {
	if t.dev != nil {
		t.dev.Close()
		return
	}
	if err := unix.Close(t.fd); err != nil {
		b.Error(err)
	}
}

// BenchmarkDeviceWrite writes packets for an address that no host has, which the
// kernel looks up and drops. A packet of 65,000 bytes with offload is a train
// of TCP segments.
func BenchmarkDeviceWrite(b *testing.B) {
	for _, c := range []struct {
		size  int
		plain bool
	}{{64, true}, {1500, true}, {65000, true}, {64, false}, {1500, false}, {65000, false}} {
		for _, bare := range []bool{false, true} {
			b.Run(fmt.Sprintf("size=%d/offload=%v/%s", c.size, !c.plain, by(bare)), func(b *testing.B) {
				t := newTunnel(b, c.plain, bare)
				defer t.close(b)
				b.SetBytes(int64(c.size))
				b.ReportAllocs()
				var hdr [tun.HdrLen]byte
				pkt := tcpPacket(c.size)
				if c.size > 1500 && !c.plain {
					hdr = vnet(1 /* NEEDS_CSUM */, unix.VIRTIO_NET_HDR_GSO_TCPV4, 40, 1460, 20, 16)
				}
				bufs := [][]byte{pkt[:40], pkt[40:]}
				if bare {
					bareWrite(b, t.fd, hdr[:], bufs, c.plain)
					return
				}
				for b.Loop() {
					if err := t.dev.WritePacket(0, &hdr, bufs); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// bareWrite is the floor: the same system call with the same memory.
func bareWrite(b *testing.B, fd int, hdr []byte, bufs [][]byte, plain bool) {
	all := append([][]byte{hdr}, bufs...)
	if plain {
		all = bufs
	}
	iov := iovecs(all)
	for b.Loop() {
		if _, _, errno := unix.Syscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov))); errno != 0 {
			b.Fatal(errno)
		}
	}
}

// BenchmarkDeviceRead has the kernel send datagrams into the TUN, batch at a
// time in one sendmmsg, and reads them. With segment they are one super-packet
// of as many, which is one read.
func BenchmarkDeviceRead(b *testing.B) {
	for _, c := range []struct {
		size, batch    int
		plain, segment bool
	}{
		{64, 1, true, false}, {64, 64, true, false}, {1200, 1, true, false}, {1200, 64, true, false},
		{64, 1, false, false}, {64, 64, false, false}, {1200, 1, false, false}, {1200, 64, false, false}, {1200, 40, false, true},
	} {
		for _, bare := range []bool{false, true} {
			name := fmt.Sprintf("size=%d/batch=%d/offload=%v/segment=%v/%s", c.size, c.batch, !c.plain, c.segment, by(bare))
			b.Run(name, func(b *testing.B) {
				t := newTunnel(b, c.plain, bare)
				defer t.close(b)
				reads := c.batch
				if c.segment {
					reads = 1
				}
				send := newSender(b, t, c.size, c.batch, c.segment)
				defer send.close()
				b.SetBytes(int64(c.size * c.batch))
				b.ReportAllocs()
				hdr, small, large := new([tun.HdrLen]byte), make([]byte, 128), make([]byte, 65535)
				bufs := [][]byte{small, large}
				iov := iovecs([][]byte{hdr[:], small, large})
				if c.plain {
					iov = iov[1:]
				}
				for b.Loop() {
					send.batch(b)
					for range reads {
						if bare {
							bareRead(b, t.fd, iov)
						} else if _, err := t.dev.ReadPacket(0, hdr, bufs); err != nil {
							b.Fatal(err)
						}
					}
				}
			})
		}
	}
}

func bareRead(b *testing.B, fd int, iov []unix.Iovec) {
	if _, _, errno := unix.Syscall(unix.SYS_READV, uintptr(fd), uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov))); errno != 0 {
		b.Fatal(errno)
	}
}

func by(bare bool) string {
	if bare {
		return "bare"
	}
	return "device"
}

func iovecs(bufs [][]byte) []unix.Iovec {
	iov := make([]unix.Iovec, len(bufs))
	for i, b := range bufs {
		iov[i].Base = &b[0]
		iov[i].SetLen(len(b))
	}
	return iov
}

// vnet is a struct virtio_net_hdr.
func vnet(flags, gso byte, hdrLen, gsoSize, start, offset uint16) (h [tun.HdrLen]byte) {
	h[0], h[1] = flags, gso
	for i, v := range []uint16{hdrLen, gsoSize, start, offset} {
		binary.LittleEndian.PutUint16(h[2+2*i:], v)
	}
	return h
}
