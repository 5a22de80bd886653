package datagram

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"netstackd/internal/ippkt"
	"netstackd/internal/transparent/outlet"
)

// proxied is the carrier over any net.PacketConn, such as an upstream's UDP
// association. Such a connection can't be watched for events, so a goroutine
// reads it for as long as the session lives. Another goroutine writes, while
// something is pending.
type proxied struct {
	s    *session
	conn net.PacketConn
	fast addrPortConn // conn, if it is one
	buf  []byte       // of the writer: one datagram in one piece

	closing sync.Once
}

// addrPortConn are the methods of a connection that needs no net.Addr on the heap
// for each datagram.
type addrPortConn interface {
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error)
}

// maxDatagram is the longest UDP payload there is: over IPv6, without options.
const maxDatagram = ippkt.MaxPacket - ippkt.UDPLen

func newProxied(s *session, c net.PacketConn) *proxied {
	p := &proxied{s: s, conn: c}
	p.fast, _ = c.(addrPortConn)
	return p
}

func (p *proxied) start() {
	if !p.s.enter() { // it was closed in the meantime
		return
	}
	if !p.s.set.spawn(p.read) {
		p.s.leave()
	}
}

func (p *proxied) blocks() bool { return true }
func (p *proxied) interrupt()   { p.close() }
func (p *proxied) destroy()     { p.close() }

func (p *proxied) close() { p.closing.Do(func() { p.conn.Close() }) }

// send implements carrier.
func (p *proxied) send(b *batch) {
	u := p.s.set
	for i := range b.list[:b.n] {
		d := &b.list[i]
		p.buf = p.buf[:0]
		for _, v := range d.payload(nil) {
			p.buf = append(p.buf, v...)
		}
		p.buf = p.buf[:d.size]
		for off := 0; off == 0 || off < d.size; off += max(d.seg, 1) {
			n := min(d.seg, d.size-off)
			if err := p.writeTo(p.buf[off:off+n], d.dst); err != nil {
				u.counters.droppedSend.Add(1)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				continue
			}
			p.s.wentUp(1, n)
		}
	}
	if cap(p.buf) > 4096 {
		p.buf = nil // most sessions are idle most of the time
	}
}

func (p *proxied) writeTo(b []byte, dst netip.AddrPort) error {
	var err error
	if p.fast != nil {
		_, err = p.fast.WriteToUDPAddrPort(b, dst)
	} else {
		_, err = p.conn.WriteTo(b, net.UDPAddrFromAddrPort(dst))
	}
	return err
}

// read passes answers on until the connection ends, and the session with it.
func (p *proxied) read() {
	s := p.s
	defer s.leave()
	defer s.close()
	buf := make([]byte, maxDatagram)
	for late := 0; ; {
		n, src, err := p.readFrom(buf)
		if err != nil {
			if late++; isLate(err) && late < maxLate {
				continue
			}
			if !errors.Is(err, net.ErrClosed) {
				s.set.log.Debug("udp session lost", "proto", "udp", "src", s.src, "err", err)
			}
			return
		}
		late = 0
		if !s.gone.Load() {
			s.used.Store(int64(s.set.now()))
		}
		src = netip.AddrPortFrom(src.Addr().Unmap().WithZone(""), src.Port())
		if src.Addr().Is4() != s.src.Addr().Is4() || !ippkt.Unicast(src.Addr()) {
			continue
		}
		s.cameDown(1, n)
		w := s.set.outlet.Writer()
		w.Bufs = append(w.Bufs, buf[:n])
		s.set.outlet.UDP(w, &outlet.Datagrams{Hash: s.hash, Src: src, Dst: s.src, Size: n, Seg: n})
		s.set.outlet.Release(w)
	}
}

// maxLate is how many errors in a row may be about earlier datagrams.
const maxLate = 64

// isLate reports whether an error says that an earlier datagram did not arrive. A
// socket reports that once and stays usable.
func isLate(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) ||
		errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EMSGSIZE)
}

func (p *proxied) readFrom(b []byte) (int, netip.AddrPort, error) {
	if p.fast != nil {
		return p.fast.ReadFromUDPAddrPort(b)
	}
	n, addr, err := p.conn.ReadFrom(b)
	if err != nil {
		return n, netip.AddrPort{}, err
	}
	if a, ok := addr.(interface{ AddrPort() netip.AddrPort }); ok {
		return n, a.AddrPort(), nil
	}
	a, _ := netip.ParseAddrPort(addr.String()) // a name has no address to answer from
	return n, a, nil
}
