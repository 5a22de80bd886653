package tun_test

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"netstackd/tun"
)

// adoptTUN returns a device of one queue and its fd, to compare with bare system calls on it.
func adoptTUN(b *testing.B, plain bool) (*tun.Device, int, *netns) {
	ns := newNetns(b)
	flags := uint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if !plain {
		flags |= unix.IFF_VNET_HDR
	}
	var fd int
	ns.Must(b, func() (err error) {
		if fd, err = rawTUN("bench0", flags); err != nil {
			return err
		}
		return up("bench0")
	})
	same, err := unix.Dup(fd)
	if err != nil {
		b.Fatal(err)
	}
	d, err := tun.FromFD(tun.Config{}, same)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { d.Close(); unix.Close(fd) })
	return d, fd, ns
}

// iovecs are for the bare system calls.
func iovecs(bufs ...[]byte) []unix.Iovec {
	var iov []unix.Iovec
	for _, buf := range bufs {
		v := unix.Iovec{Base: unsafe.SliceData(buf)}
		v.SetLen(len(buf))
		iov = append(iov, v)
	}
	return iov
}

func bare(trap uintptr, fd int, iov []unix.Iovec) (int, syscall.Errno) {
	n, _, errno := syscall.Syscall(trap, uintptr(fd), uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)))
	return int(n), errno
}

// BenchmarkWrite writes packets that the kernel takes and then drops, since
// they go nowhere: UDP up to the MTU, TCP super-packets above. Bare is
// the same writev(2) in a loop.
func BenchmarkWrite(b *testing.B) {
	nowhere := mustAddrPort("192.0.2.1:9")
	for _, size := range []int{64, 576, 1500, 16384, 65535} {
		packet := udpPacket(deviceEnd, nowhere, make([]byte, size-28))
		var hdr [tun.HdrLen]byte
		if size > 1500 {
			packet = tcpPacket(tcpACK, 1, 1, nil, make([]byte, size-40))
			copy(packet[16:], nowhere.Addr().AsSlice())
			packet[10], packet[11] = 0, 0
			hdr = virtio{needsCsum, unix.VIRTIO_NET_HDR_GSO_TCPV4, 40, 1460, 20, 16}.bytes()
		}
		bufs := [][]byte{packet[:28], packet[28:]}
		for _, plain := range []bool{false, true} {
			if plain && size > 1500 {
				continue
			}
			b.Run(fmt.Sprintf("device/size=%d/vnet=%v", size, !plain), func(b *testing.B) {
				d, _, _ := adoptTUN(b, plain)
				b.ReportAllocs()
				b.SetBytes(int64(size))
				for b.Loop() {
					if err := d.WritePacket(0, &hdr, bufs); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		b.Run(fmt.Sprintf("bare/size=%d", size), func(b *testing.B) {
			_, fd, _ := adoptTUN(b, false)
			iov := iovecs(hdr[:], bufs[0], bufs[1])
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, errno := bare(unix.SYS_WRITEV, fd, iov); errno != 0 {
					b.Fatal(errno)
				}
			}
		})
	}
}

// BenchmarkRead reads what a thread of the kernel's side sends as fast as it
// can: UDP up to the MTU, trains of datagrams (USO) above. Bare is readv(2) in
// a loop on a blocking fd.
func BenchmarkRead(b *testing.B) {
	for _, size := range []int{64, 576, 1500, 48028} {
		for _, plain := range []bool{false, true} {
			if plain && size > 1500 {
				continue
			}
			b.Run(fmt.Sprintf("device/size=%d/vnet=%v", size, !plain), func(b *testing.B) {
				d, _, ns := adoptTUN(b, plain)
				defer flood(b, d, ns, size)()
				var hdr [tun.HdrLen]byte
				bufs := [][]byte{make([]byte, 128), make([]byte, 65536)}
				b.ReportAllocs()
				b.SetBytes(int64(size))
				for b.Loop() {
					if _, err := d.ReadPacket(0, &hdr, bufs); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		b.Run(fmt.Sprintf("bare/size=%d", size), func(b *testing.B) {
			d, fd, ns := adoptTUN(b, false)
			if err := unix.SetNonblock(fd, false); err != nil {
				b.Fatal(err)
			}
			defer flood(b, d, ns, size)()
			iov := iovecs(make([]byte, tun.HdrLen), make([]byte, 128), make([]byte, 65536))
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, errno := bare(unix.SYS_READV, fd, iov); errno != 0 {
					b.Fatal(errno)
				}
			}
		})
	}
}

// flood sends packets of size bytes to the device, on a thread of its own,
// until the function that it returns is called. If it can't, it closes the
// device.
func flood(b *testing.B, d *tun.Device, ns *netns, size int) (stop func()) {
	fd := udpSocket(b, ns)
	if size > 1500 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 1200); err != nil {
			b.Fatal(err)
		}
	}
	payload := make([]byte, size-28)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for {
			select {
			case <-done:
				return
			default:
			}
			if _, err := unix.Write(fd, payload); err != nil && !errors.Is(err, unix.ENOBUFS) {
				b.Errorf("send: %v", err)
				d.Close()
				return
			}
		}
	})
	return func() { close(done); wg.Wait(); unix.Close(fd) }
}

// udpSocket returns a blocking UDP socket from kernelEnd to deviceEnd.
func udpSocket(b *testing.B, ns *netns) int {
	var fd int
	ns.Must(b, func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return errors.Join(err,
			unix.Bind(fd, &unix.SockaddrInet4{Port: int(kernelEnd.Port()), Addr: kernelEnd.Addr().As4()}),
			unix.Connect(fd, &unix.SockaddrInet4{Port: int(deviceEnd.Port()), Addr: deviceEnd.Addr().As4()}))
	})
	return fd
}

// BenchmarkRoundTrip is one datagram to the device, from the goroutine that
// reads it to another that answers it, and back: what a way of waiting for
// packets costs. With busy, so many other goroutines want the processors as
// well.
func BenchmarkRoundTrip(b *testing.B) {
	for _, busy := range []int{0, 4} {
		for _, wait := range []string{"device", "netpoller", "poll"} {
			b.Run(fmt.Sprintf("busy=%d/wait=%s", busy, wait), func(b *testing.B) {
				d, fd, ns := adoptTUN(b, false)
				defer spin(busy)()
				roundTrips(b, ns, d, waiters(b, d, fd)[wait])
			})
		}
	}
}

// waiters are ways of reading a packet: the device's; a plain read in the
// runtime's poller; and poll(2), which blocks the thread.
func waiters(b *testing.B, d *tun.Device, fd int) map[string]func([]byte) (int, error) {
	own, err := unix.Dup(fd)
	if err != nil {
		b.Fatal(err)
	}
	file := os.NewFile(uintptr(own), "tun")
	b.Cleanup(func() { file.Close() })
	frame := make([]byte, 1<<16)
	var hdr [tun.HdrLen]byte
	return map[string]func([]byte) (int, error){
		"device": func(buf []byte) (int, error) { return d.ReadPacket(0, &hdr, [][]byte{buf}) },
		"netpoller": func(buf []byte) (int, error) {
			n, err := file.Read(frame)
			return copy(buf, frame[min(n, tun.HdrLen):n]), err
		},
		"poll": func(buf []byte) (int, error) {
			iov := iovecs(hdr[:], buf)
			for {
				n, errno := bare(unix.SYS_READV, fd, iov)
				if errno == 0 {
					return n - tun.HdrLen, nil
				}
				if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1); err != nil && err != unix.EINTR {
					return 0, err
				}
			}
		},
	}
}

// spin keeps n goroutines working, in short turns, until the function that it returns is called.
func spin(n int) (stop func()) {
	var done atomic.Bool
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			var work atomic.Int64
			for !done.Load() {
				for i := range int64(5000) {
					work.Add(i)
				}
				runtime.Gosched()
			}
		})
	}
	return func() { done.Store(true); wg.Wait() }
}

func roundTrips(b *testing.B, ns *netns, d *tun.Device, read func([]byte) (int, error)) {
	fd := udpSocket(b, ns)
	defer unix.Close(fd)
	const end = "end"
	packets := make(chan []byte, 64)
	var wg sync.WaitGroup
	wg.Go(func() { // reads
		defer close(packets)
		for {
			buf := make([]byte, 2048)
			n, err := read(buf)
			if err != nil {
				b.Errorf("read: %v", err)
				return
			}
			payload := udpPayload(buf[:n], deviceEnd)
			if string(payload) == end {
				return
			}
			if payload != nil {
				packets <- buf[:n]
			}
		}
	})
	wg.Go(func() { // answers
		var hdr [tun.HdrLen]byte
		for p := range packets {
			if err := d.WritePacket(0, &hdr, [][]byte{udpPacket(deviceEnd, kernelEnd, p[28:])}); err != nil {
				b.Errorf("WritePacket = %v", err)
			}
		}
	})
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	msg := make([]byte, 64)
	for b.Loop() {
		_, errno := unix.Write(fd, msg)
		_, err := unix.Read(fd, msg)
		if err := errors.Join(errno, err); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := unix.Write(fd, []byte(end)); err != nil {
		b.Fatal(err)
	}
	wg.Wait()
}
