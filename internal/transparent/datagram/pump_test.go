package datagram_test

import (
	"encoding/binary"
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"netstackd/internal/sys"
)

// pump is what UDP has to be measured against: the same system calls, on one
// thread, without a stack, a queue, a limit, or a second protocol. It reads a
// TUN packet by packet, sends each source's datagrams with one sendmmsg,
// receives with recvmmsg, and writes packet by packet.
type pump struct {
	tun, ep int
	wake    int // an eventfd that ends it
	mark    int
	sockets map[uint16]*pumpSocket // by source port
	ports   map[int32]*pumpSocket  // by descriptor

	packets [64][]byte
	msgs    [64]sys.Mmsghdr
	iovs    [64]unix.Iovec
	names   [64]unix.RawSockaddrInet4
}

type pumpSocket struct {
	fd   int
	src  [4]byte
	port uint16
}

// openPump opens the interface in the calling thread's namespace.
func openPump(name string, mark int) (*pump, error) {
	p := &pump{mark: mark, sockets: map[uint16]*pumpSocket{}, ports: map[int32]*pumpSocket{}}
	for i := range p.packets {
		p.packets[i] = make([]byte, 70000)
	}
	var err error
	if p.tun, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
		return nil, err
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(p.tun, unix.TUNSETIFF, ifr); err != nil {
		return nil, err
	}
	const offloads = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	if err := unix.IoctlSetInt(p.tun, unix.TUNSETOFFLOAD, offloads); err != nil {
		return nil, err
	}
	if p.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	if p.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return nil, err
	}
	return p, errors.Join(p.watch(p.tun), p.watch(p.wake))
}

func (p *pump) watch(fd int) error {
	return unix.EpollCtl(p.ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

func (p *pump) stop() { _, _ = unix.Write(p.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

// run pumps on the calling thread until stop.
func (p *pump) run() error {
	defer func() {
		for _, s := range p.sockets {
			unix.Close(s.fd)
		}
		unix.Close(p.tun)
		unix.Close(p.ep)
		unix.Close(p.wake)
	}()
	var events [64]unix.EpollEvent
	for {
		n, err := unix.EpollWait(p.ep, events[:], -1)
		if err != nil && err != unix.EINTR {
			return os.NewSyscallError("epoll_wait", err)
		}
		for i := range events[:max(n, 0)] {
			switch fd := events[i].Fd; fd {
			case int32(p.wake):
				return nil
			case int32(p.tun):
				if err := p.up(); err != nil {
					return err
				}
			default:
				p.down(p.ports[fd])
			}
		}
	}
}

const pumpHdr = 10 + header.IPv4MinimumSize + header.UDPMinimumSize

// up moves what the TUN has, at most a batch.
func (p *pump) up() error {
	var from [len(p.packets)]*pumpSocket
	var lens [len(p.packets)]int
	k := 0
	for k < len(p.packets) {
		b := p.packets[k]
		n, err := unix.Read(p.tun, b)
		if err != nil {
			break
		}
		if n < pumpHdr || b[10]>>4 != 4 || b[19] != uint8(header.UDPProtocolNumber) {
			continue
		}
		s, err := p.socket(b)
		if err != nil {
			return err
		}
		from[k], lens[k] = s, n-pumpHdr
		k++
	}
	for i := range k {
		s := from[i]
		if s == nil {
			continue
		}
		n := 0
		for j := i; j < k; j++ {
			if from[j] != s {
				continue
			}
			from[j] = nil
			b := p.packets[j]
			p.names[n] = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: [4]byte(b[26:30])}
			copy((*[2]byte)(unsafe.Pointer(&p.names[n].Port))[:], b[32:34])
			p.message(n, b[pumpHdr:], lens[j])
			n++
		}
		unix.Syscall6(unix.SYS_SENDMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&p.msgs[0])), uintptr(n), unix.MSG_DONTWAIT, 0, 0)
	}
	return nil
}

func (p *pump) message(i int, b []byte, n int) {
	p.iovs[i].Base = &b[0]
	p.iovs[i].SetLen(n)
	p.msgs[i].Hdr = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&p.names[i])), Namelen: unix.SizeofSockaddrInet4, Iov: &p.iovs[i]}
	p.msgs[i].Hdr.SetIovlen(1)
}

func (p *pump) socket(b []byte) (*pumpSocket, error) {
	port := binary.BigEndian.Uint16(b[30:])
	if s := p.sockets[port]; s != nil {
		return s, nil
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	s := &pumpSocket{fd: fd, src: [4]byte(b[22:26]), port: port}
	p.sockets[port], p.ports[int32(fd)] = s, s
	return s, errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, p.mark),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20),
		unix.Bind(fd, &unix.SockaddrInet4{}), p.watch(fd))
}

// down writes what has come for a source, at most 16.
func (p *pump) down(s *pumpSocket) {
	const batch = 16
	for i := range batch {
		p.message(i, p.packets[i][pumpHdr:], len(p.packets[i])-pumpHdr)
	}
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&p.msgs[0])), batch, unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return
	}
	for i := range int(n) {
		b, size := p.packets[i], int(p.msgs[i].N)
		clear(b[:pumpHdr])
		b[0] = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM; a TUN that is not told otherwise has the host's byte order
		binary.NativeEndian.PutUint16(b[2:], pumpHdr-10)
		binary.NativeEndian.PutUint16(b[6:], header.IPv4MinimumSize)
		binary.NativeEndian.PutUint16(b[8:], 6)
		ip := header.IPv4(b[10:])
		ip[0], ip[8], ip[9] = 0x45, 64, uint8(header.UDPProtocolNumber)
		ip.SetTotalLength(uint16(pumpHdr - 10 + size))
		copy(ip[12:], p.names[i].Addr[:])
		copy(ip[16:], s.src[:])
		ip.SetChecksum(^ip.CalculateChecksum())
		udp := header.UDP(b[30:])
		copy(udp, (*[2]byte)(unsafe.Pointer(&p.names[i].Port))[:])
		udp.SetDestinationPort(s.port)
		udp.SetLength(uint16(header.UDPMinimumSize + size))
		udp.SetChecksum(header.PseudoHeaderChecksum(header.UDPProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), udp.Length()))
		_, _ = unix.Write(p.tun, b[:pumpHdr+size])
	}
}
