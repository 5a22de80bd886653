package datagram_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"netstackd/internal/flow"
	"netstackd/internal/netstack"
	"netstackd/internal/sys"
	"netstackd/internal/transparent/datagram"
	"netstackd/link"
)

// BenchmarkUDPUp sends batches of 64 datagrams to a socket that is not read,
// beside a bare loop of the same system call with the same messages.
func BenchmarkUDPUp(b *testing.B) {
	for _, size := range []int{64, 1200} {
		for _, flows := range []int{1, 16} {
			b.Run(fmt.Sprintf("size=%d/flows=%d", size, flows), func(b *testing.B) { benchUp(b, size, flows) })
		}
		b.Run(fmt.Sprintf("size=%d/bare", size), func(b *testing.B) { benchBareUp(b, size, 64, 0) })
		b.Run(fmt.Sprintf("size=%d/bare=4", size), func(b *testing.B) { benchBareUp(b, size, 4, 0) })
		b.Run(fmt.Sprintf("size=%d/bare-segment", size), func(b *testing.B) { benchBareUp(b, size, 1, 64) })
	}
}

const benchBatch = 64

type nullLink struct{}

func (nullLink) USO() bool                                     { return true }
func (nullLink) MTU() uint32                                   { return 1500 }
func (nullLink) SupportedGSO() stack.SupportedGSO              { return stack.HostGSOSupported }
func (nullLink) WriteRaw(uint32, link.Offload, [][]byte) error { return nil }

func benchUp(b *testing.B, size, flows int) {
	r := newRigOn(b, nullLink{}, rigConfig{dialer: &hostDialer{}, udp: datagram.UDPConfig{Inline: true}})
	srv := listen(b, "127.0.0.1")
	pkts := make([]*netstack.Packet, flows)
	for i := range pkts {
		a := appPacket{src: netip.AddrPortFrom(families[0].app.Addr(), uint16(1000+i)), dst: srv.addr, payload: random(size), views: 2}
		pkts[i] = a.packet()
		defer pkts[i].Buf.DecRef()
	}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		r.udp.HandlePacket(pkts[n%flows])
		if n++; n%benchBatch == 0 {
			r.udp.Flush()
		}
	}
	r.udp.Flush()
	b.ReportMetric(float64(r.udp.Stats().SendCalls)/float64(n), "calls/op")
}

func benchBareUp(b *testing.B, size, batch, segs int) {
	srv := listen(b, "127.0.0.1")
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Close(fd)
	sa := unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: srv.addr.Addr().As4()}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:], srv.addr.Port())
	payload := random(size * max(segs, 1))
	iov := unix.Iovec{Base: &payload[0]}
	iov.SetLen(min(len(payload), 65000/size*size))
	oob := make([]byte, unix.CmsgSpace(2))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
	h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(oob[unix.CmsgLen(0):], uint16(size))
	msgs := make([]sys.Mmsghdr, batch)
	for i := range msgs {
		msgs[i].Hdr = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&sa)), Namelen: unix.SizeofSockaddrInet4, Iov: &iov}
		msgs[i].Hdr.SetIovlen(1)
		if segs > 1 {
			msgs[i].Hdr.Control = &oob[0]
			msgs[i].Hdr.SetControllen(len(oob))
		}
	}
	b.SetBytes(int64(size))
	n, per := 0, batch*max(int(iov.Len)/size, 1)
	for b.Loop() {
		if n++; n%per == 0 {
			_, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), uintptr(batch), unix.MSG_DONTWAIT, 0, 0)
			if errno != 0 {
				b.Fatal(errno)
			}
		}
	}
}

// BenchmarkUDPDown receives bursts of 16 datagrams, beside a bare loop of the
// system calls that send and receive them.
func BenchmarkUDPDown(b *testing.B) {
	for _, size := range []int{64, 1200} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			l := countLink{make(chan int, 1024)}
			r := newRigOn(b, l, rigConfig{dialer: &hostDialer{}, udp: datagram.UDPConfig{Inline: true}})
			srv := listen(b, "127.0.0.1")
			r.send(appPacket{src: families[0].app, dst: srv.addr, payload: []byte("x")})
			_, to := srv.next(b)
			burst := newBurst(to, size)
			fd := descriptor(b, srv.UDPConn)
			b.ReportAllocs()
			b.SetBytes(burstLen * int64(size))
			for b.Loop() {
				burst.send(b, fd)
				for n := 0; n < burstLen*size; {
					n += <-l.got
				}
			}
		})
		b.Run(fmt.Sprintf("size=%d/bare", size), func(b *testing.B) {
			srv, c := listen(b, "127.0.0.1"), listen(b, "127.0.0.1")
			burst, in := newBurst(c.addr, size), newBurst(c.addr, 65536)
			fd, cfd := descriptor(b, srv.UDPConn), descriptor(b, c.UDPConn)
			b.SetBytes(burstLen * int64(size))
			for b.Loop() {
				burst.send(b, fd)
				for n := 0; n < burstLen; {
					k, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, cfd, uintptr(unsafe.Pointer(&in.msgs[0])), burstLen, unix.MSG_DONTWAIT, 0, 0)
					if errno != 0 {
						b.Fatal(errno)
					}
					n += int(k)
				}
			}
		})
	}
}

const burstLen = 16

// burst is a batch of equal datagrams.
type burst struct {
	sa   unix.RawSockaddrInet4
	iovs [burstLen]unix.Iovec
	msgs [burstLen]sys.Mmsghdr
}

func newBurst(to netip.AddrPort, size int) *burst {
	x := &burst{sa: unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: to.Addr().As4()}}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&x.sa.Port))[:], to.Port())
	for i := range x.msgs {
		x.iovs[i].Base = &make([]byte, size)[0]
		x.iovs[i].SetLen(size)
		x.msgs[i].Hdr = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&x.sa)), Namelen: unix.SizeofSockaddrInet4, Iov: &x.iovs[i]}
		x.msgs[i].Hdr.SetIovlen(1)
	}
	return x
}

func (x *burst) send(b *testing.B, fd uintptr) {
	n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&x.msgs[0])), burstLen, unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 || n != burstLen {
		b.Fatal(n, errno)
	}
}

func descriptor(b *testing.B, c *net.UDPConn) (fd uintptr) {
	rc, err := c.SyscallConn()
	if err != nil {
		b.Fatal(err)
	}
	if err := rc.Control(func(f uintptr) { fd = f }); err != nil {
		b.Fatal(err)
	}
	return fd
}

// takenDialer asks for a port that is taken whenever one is asked for.
type takenDialer struct {
	datagram.PacketDialer
	taken string
}

func (d takenDialer) ListenPacket(ctx context.Context, m *flow.Meta, network, address string) (net.PacketConn, error) {
	if address != "" {
		address = d.taken
	}
	return d.PacketDialer.ListenPacket(ctx, m, network, address)
}

// BenchmarkUDPOpen makes a session for each datagram, and evicts the oldest. Its
// socket has any port, the application's, or any because the application's is taken.
func BenchmarkUDPOpen(b *testing.B) {
	for _, port := range []string{"any", "kept", "taken"} {
		b.Run("port="+port, func(b *testing.B) { benchOpen(b, port != "any", port == "taken") })
	}
}

func benchOpen(b *testing.B, keep, taken bool) {
	const held = 1000
	flows := flow.NewRegistry(flow.Config{MaxFlows: held})
	srv := listen(b, "127.0.0.1")
	var d datagram.PacketDialer = &hostDialer{}
	if taken {
		d = takenDialer{d, fmt.Sprintf(":%d", srv.addr.Port())}
	}
	r := newRigOn(b, nullLink{}, rigConfig{flows: flows, dialer: d, udp: datagram.UDPConfig{
		Inline:   true,
		KeepPort: func(src netip.AddrPort) bool { return keep && src.Port() >= 1024 },
	}})
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		a := appPacket{src: netip.AddrPortFrom(families[0].app.Addr(), uint16(1+i%65535)), dst: srv.addr, payload: []byte("x")}
		p := a.packet()
		r.udp.HandlePacket(p)
		p.Buf.DecRef()
		r.udp.Flush()
	}
}
