package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"

	"golang.org/x/sys/unix"
)

// A pump is a SOCKS5 server that is nothing but its system calls: one thread,
// no authentication, IPv4, handshakes whose messages come whole, what is small by
// read and write and the rest by splice. It is for measure, not for use: what a
// proxy that passes on each FIN costs at least.
type pump struct {
	epoll, listener int
	ends            map[int32]*pumpEnd
	over            []*pumpEnd // to be closed, once no event of theirs is left
	buf             [16 << 10]byte
}

// pumpEnd is one side of a connection.
type pumpEnd struct {
	fd    int
	other *pumpEnd // nil until the request
	state pumpState
	ended bool // its FIN came

	pipe  [2]int // of what is on its way to other, once that was much
	piped int    // bytes in it
}

type pumpState byte

const (
	greeting   pumpState = iota // the client's, expected
	request                     // the client's, expected
	connecting                  // of the server's end
	joined
)

// runPump serves on an IPv4 address until it is killed.
func runPump(address string) error {
	runtime.LockOSThread()
	at, err := netip.ParseAddrPort(address)
	if err != nil || !at.Addr().Is4() {
		return fmt.Errorf("%q is no IPv4 address with a port", address)
	}
	p := &pump{ends: make(map[int32]*pumpEnd)}
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if p.listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	for _, err := range []error{
		unix.SetsockoptInt(p.listener, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		noDelay(p.listener), // those that it accepts inherit it
		unix.Bind(p.listener, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}),
		unix.Listen(p.listener, 4096),
		unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, p.listener, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(p.listener)}),
	} {
		if err != nil {
			return fmt.Errorf("listen on %s: %w", address, err)
		}
	}
	events := make([]unix.EpollEvent, 64)
	for {
		n, err := unix.EpollWait(p.epoll, events, -1)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		for _, ev := range events[:n] {
			if int(ev.Fd) == p.listener {
				err = p.accept()
			} else if e := p.ends[ev.Fd]; e != nil { // or over
				p.serve(e, ev.Events)
			}
			if err != nil {
				return err
			}
		}
		p.sweep()
	}
}

func noDelay(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) }

func (p *pump) accept() error {
	fd, _, err := unix.Accept4(p.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	switch err {
	case nil:
		p.watch(&pumpEnd{fd: fd})
	case unix.EAGAIN, unix.ECONNABORTED, unix.EINTR:
	default:
		return fmt.Errorf("accept: %w", err)
	}
	return nil
}

func (p *pump) watch(e *pumpEnd) {
	p.ends[int32(e.fd)] = e
	_ = unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, e.fd,
		&unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(e.fd)})
}

// serve does what an event of an end calls for, and has both ends closed when
// that fails or nothing is left to be done.
func (p *pump) serve(e *pumpEnd, events uint32) {
	err := p.step(e, events)
	if err == nil || err == unix.EAGAIN {
		return
	}
	for _, e := range []*pumpEnd{e, e.other} {
		if e != nil {
			delete(p.ends, int32(e.fd))
			p.over = append(p.over, e)
		}
	}
}

// sweep closes what is over: after all events of a look, or a new descriptor of
// the same number would get the old one's.
func (p *pump) sweep() {
	for _, e := range p.over {
		unix.Close(e.fd)
		if e.pipe[1] > 0 {
			unix.Close(e.pipe[0])
			unix.Close(e.pipe[1])
		}
	}
	p.over = p.over[:0]
}

func (p *pump) step(e *pumpEnd, events uint32) error {
	readable := events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0
	switch {
	case e.state == greeting && readable:
		return p.greet(e)
	case e.state == request && readable:
		return p.connect(e)
	case e.state == connecting && events&unix.EPOLLERR != 0:
		return unix.ECONNREFUSED
	case e.state == connecting && events&unix.EPOLLOUT != 0:
		e.state = joined
		if _, err := unix.Write(e.other.fd, []byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0}); err != nil {
			return err
		}
	}
	if e.state != joined {
		return nil
	}
	if events&unix.EPOLLOUT != 0 && e.other.piped > 0 {
		if err := p.splice(e.other); err != nil && err != unix.EAGAIN {
			return err
		}
	}
	if readable && !e.ended {
		return p.carry(e, events&unix.EPOLLRDHUP != 0)
	}
	return nil
}

var errPumpRequest = errors.New("no CONNECT to an IPv4 address")

func (p *pump) greet(client *pumpEnd) error {
	n, err := unix.Read(client.fd, p.buf[:])
	if err != nil || n == 0 {
		return orEnd(err)
	}
	client.state = request
	_, err = unix.Write(client.fd, []byte{5, 0})
	return err
}

func (p *pump) connect(client *pumpEnd) error {
	n, err := unix.Read(client.fd, p.buf[:])
	if err != nil || n == 0 {
		return orEnd(err)
	}
	if n != 10 || [4]byte(p.buf[:4]) != [4]byte{5, 1, 0, 1} {
		return errPumpRequest
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	server := &pumpEnd{fd: fd, other: client, state: connecting}
	client.other, client.state = server, joined
	_ = noDelay(fd)
	to := &unix.SockaddrInet4{Addr: [4]byte(p.buf[4:8]), Port: int(binary.BigEndian.Uint16(p.buf[8:10]))}
	if err := unix.Connect(fd, to); err != nil && err != unix.EINPROGRESS {
		return err
	}
	p.watch(server)
	return nil
}

// carry passes on what has come, and the FIN when that has.
func (p *pump) carry(from *pumpEnd, fin bool) error {
	for from.pipe[1] == 0 {
		n, err := unix.Read(from.fd, p.buf[:])
		if err != nil {
			return err
		}
		if n == 0 {
			return from.end()
		}
		if w, err := unix.Write(from.other.fd, p.buf[:n]); w < n {
			return fmt.Errorf("no room for %d bytes: %v", n, err)
		}
		if n == len(p.buf) {
			if err := unix.Pipe2(from.pipe[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
				return err
			}
			_, _ = unix.FcntlInt(uintptr(from.pipe[1]), unix.F_SETPIPE_SZ, pumpPipe)
		} else if !fin {
			return nil
		}
	}
	return p.splice(from)
}

const pumpPipe = 1 << 20

// splice is carry for an end that much comes from.
func (p *pump) splice(from *pumpEnd) error {
	const flags = unix.SPLICE_F_MOVE | unix.SPLICE_F_NONBLOCK
	for {
		if from.piped == 0 {
			n, err := unix.Splice(from.fd, nil, from.pipe[1], nil, pumpPipe, flags)
			if err != nil {
				return err
			}
			if n == 0 {
				return from.end()
			}
			from.piped = int(n)
		}
		n, err := unix.Splice(from.pipe[0], nil, from.other.fd, nil, from.piped, flags)
		if err != nil {
			return err
		}
		from.piped -= int(n)
	}
}

// end passes on a FIN.
func (e *pumpEnd) end() error {
	e.ended = true
	if e.other.ended {
		return errPumpEnd
	}
	return unix.Shutdown(e.other.fd, unix.SHUT_WR)
}

var errPumpEnd = errors.New("both sides have ended")

func orEnd(err error) error {
	if err == nil {
		return errPumpEnd
	}
	return err
}
