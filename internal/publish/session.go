package publish

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"netstackd/internal/flow"
)

// key is what a session is found by.
type key struct {
	port   *udpPort
	client netip.AddrPort // as the socket has it, maybe IPv4-mapped
	local  local
}

// session is one client of a UDP port, with a connected socket inside.
//
// Its goroutine, which begins when the socket is open, reads the answers and is
// the one that closes the socket. Others end a session by end.
type session struct {
	key
	set    *sessions
	source []byte       // control message of the answers
	used   atomic.Int64 // when it last carried something, on set.now's clock

	mu      sync.Mutex
	flow    *flow.Flow   // set before the session is in the table
	conn    *net.UDPConn // nil while it is being opened
	waiting [][]byte     // datagrams that wait for conn
	ended   bool
}

// maxDatagram is more than any UDP payload.
const maxDatagram = 65536

var buffers = sync.Pool{New: func() any { return new([maxDatagram]byte) }}

// maxWaiting is how many datagrams may wait for a session to open.
const maxWaiting = 256

// send sends a datagram to the server, or keeps it until the session is open. It
// reports false when the session has ended. The socket inside sends over
// loopback, which does not block.
func (s *session) send(b []byte) bool {
	s.used.Store(int64(s.set.now()))
	s.mu.Lock()
	conn := s.conn
	if conn == nil {
		defer s.mu.Unlock()
		if s.ended {
			return false
		}
		if len(s.waiting) == maxWaiting || !s.set.hold(len(b)) {
			s.set.dropped.Add(1)
			return true
		}
		s.waiting = append(s.waiting, append([]byte(nil), b...))
		return true
	}
	s.mu.Unlock()
	return s.write(conn, b)
}

// write sends a datagram. It ends the session, and reports false, when an
// earlier datagram met a closed port: the server may be back at another address.
func (s *session) write(conn *net.UDPConn, b []byte) bool {
	_, err := conn.Write(b)
	switch {
	case err == nil:
		s.flow.AddUp(int64(len(b)))
	case errors.Is(err, syscall.ECONNREFUSED):
		s.port.inner.Store(nil)
		s.end()
		return false
	case errors.Is(err, net.ErrClosed):
		return false
	default:
		s.set.dropped.Add(1)
	}
	return true
}

// opened sends what waits, in order, and begins to carry.
func (s *session) opened(conn *net.UDPConn) {
	s.set.opened.Add(1) // before the server can answer
	s.mu.Lock()
	for len(s.waiting) > 0 && !s.ended {
		list := s.waiting
		s.waiting = nil
		s.mu.Unlock()
		for _, b := range list {
			if !s.write(conn, b) {
				s.set.dropped.Add(1)
			}
			s.set.release(len(b))
		}
		s.mu.Lock()
	}
	ended := s.ended
	if !ended {
		s.conn = conn
	}
	s.mu.Unlock()
	if ended {
		conn.Close()
		return
	}
	s.set.reading.Go(func() { s.read(conn) })
}

// read gives the server's answers to the client until the session ends.
func (s *session) read(conn *net.UDPConn) {
	defer s.flow.Close()
	defer conn.Close()
	defer s.end()
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	turn := func(fd uintptr) (got bool) { // a buffer is taken for a datagram only
		buf := buffers.Get().(*[maxDatagram]byte)
		defer buffers.Put(buf)
		var n int
		if n, err, got = readNow(fd, buf[:]); got && err == nil {
			s.answer(buf[:n])
		}
		return got
	}
	for err == nil && s.extend(conn) {
		var deadline error
		for err == nil && deadline == nil {
			deadline = raw.Read(turn)
		}
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		s.port.inner.Store(nil)
	}
	s.end()
	_ = raw.Control(func(fd uintptr) { // what the server sent before its end
		for n := 0; n < maxWaiting && turn(fd); n++ {
		}
	})
}

// answer sends a datagram of the server to the client, from the address that the
// client has sent to.
func (s *session) answer(b []byte) {
	if _, _, err := s.port.conn.WriteMsgUDPAddrPort(b, s.source, s.client); err != nil {
		s.set.dropped.Add(1)
		return
	}
	s.used.Store(int64(s.set.now()))
	s.flow.AddDown(int64(len(b)))
}

// extend sets the deadline of the next read by when the session was last used.
// It reports false when that is too long ago, or the session has ended.
func (s *session) extend(conn *net.UDPConn) bool {
	rest := s.set.cfg.UDPTimeout - (s.set.now() - time.Duration(s.used.Load()))
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended:
		return false
	case rest <= 0:
		s.set.expired.Add(1)
		return false
	}
	return conn.SetReadDeadline(time.Now().Add(rest)) == nil
}

// end takes the session out of the table and stops its goroutine. It does not
// wait, and is idempotent.
func (s *session) end() {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	s.ended = true
	conn := s.conn
	for _, b := range s.waiting {
		s.set.release(len(b))
		s.set.dropped.Add(1)
	}
	s.waiting = nil
	if conn != nil {
		_ = conn.SetReadDeadline(time.Unix(1, 0))
	}
	f := s.flow
	s.mu.Unlock()
	s.set.remove(s)
	if conn == nil && f != nil {
		f.Close()
	}
}

func (s *session) isEnded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// evict ends the session and gives its place among the flows up at once.
func (s *session) evict() {
	s.set.evicted.Add(1)
	s.end()
	s.flow.Close()
}
