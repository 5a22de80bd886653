package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// buffers are for messages of any length: those read, not those kept.
var buffers = sync.Pool{New: func() any { return new([maxMessage]byte) }}

const (
	// connIdle is how long a program's connection may be silent (RFC 7766 §6.2.3).
	connIdle = 10 * time.Second
	// writeTimeout bounds an answer to a program that doesn't read.
	writeTimeout = 5 * time.Second
	// connQueries bounds the queries under way on one connection.
	connQueries = 64
)

// servePacket answers the queries that come in on c.
func (s *Server) servePacket(ctx context.Context, c net.PacketConn) error {
	buf := buffers.Get().(*[maxMessage]byte)
	defer buffers.Put(buf)
	for {
		n, from, err := c.ReadFrom(buf[:])
		if err != nil {
			if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
				return err
			}
			if lateError(err) {
				continue
			}
			return err
		}
		select {
		case s.slots <- struct{}{}:
		default:
			s.dropped.Add(1)
			continue
		}
		raw := append([]byte(nil), buf[:n]...)
		s.tasks.Go(func() {
			defer func() { <-s.slots }()
			answer := s.resolve(ctx, raw, clientOf(from))
			if answer == nil || ctx.Err() != nil {
				return
			}
			_, _ = c.WriteTo(s.fitUDP(raw, answer), from)
		})
	}
}

// fitUDP cuts an answer that is longer than the program takes.
func (s *Server) fitUDP(raw, answer []byte) []byte {
	if len(answer) <= minUDP {
		return answer
	}
	q, err := parseQuery(raw)
	if err != nil || len(answer) <= q.udpSize {
		return answer
	}
	s.truncated.Add(1)
	return q.cut(answer)
}

// serveListener answers the queries on the connections that l accepts.
func (s *Server) serveListener(ctx context.Context, l net.Listener) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		select {
		case s.conns <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		c, err := l.Accept()
		if err != nil {
			<-s.conns
			if ctx.Err() == nil && s.canAccept(ctx, err) {
				continue
			}
			return err
		}
		conns.Go(func() {
			defer func() { <-s.conns }()
			defer c.Close()
			defer context.AfterFunc(ctx, func() { c.Close() })()
			s.serveConn(ctx, c)
		})
	}
}

// serveConn answers the queries of one connection, each as soon as it can.
func (s *Server) serveConn(ctx context.Context, c net.Conn) {
	var queries sync.WaitGroup
	defer queries.Wait()
	var writing sync.Mutex
	slots := make(chan struct{}, connQueries)
	for {
		_ = c.SetReadDeadline(time.Now().Add(connIdle))
		raw, err := readMessage(c)
		if err != nil {
			return
		}
		slots <- struct{}{}
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		queries.Go(func() {
			defer func() { <-slots; <-s.slots }()
			answer := s.resolve(ctx, raw, clientOf(c.RemoteAddr()))
			if answer == nil {
				return
			}
			writing.Lock()
			defer writing.Unlock()
			_ = c.SetWriteDeadline(time.Now().Add(writeTimeout))
			if writeMessage(c, answer) != nil {
				c.Close()
			}
		})
	}
}

// lateError reports whether err is an ICMP error for an earlier
// answer, whose client was gone. The socket stays usable.
func lateError(err error) bool {
	for _, errno := range []syscall.Errno{syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EMSGSIZE} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// acceptPause is how long to wait for a file descriptor to be free.
const acceptPause = 100 * time.Millisecond

// canAccept reports whether a listener that returned err still works, once it
// does.
func (s *Server) canAccept(ctx context.Context, err error) bool {
	switch {
	case errors.Is(err, syscall.ECONNABORTED):
		return true
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		select {
		case <-time.After(acceptPause):
			return true
		case <-ctx.Done():
		}
	}
	return false
}

// client is where a query came from.
type client struct {
	source netip.AddrPort // the zero value if the peer has no address of the IP
	asked  netip.AddrPort // the nameserver that it was captured on its way to, if any
}

// clientOf reads the address of a socket's peer. One that was captured knows
// the nameserver that it asked.
func clientOf(a net.Addr) (c client) {
	if a, ok := a.(interface{ AddrPort() netip.AddrPort }); ok {
		c.source = a.AddrPort()
	}
	if a, ok := a.(interface{ Asked() netip.AddrPort }); ok {
		c.asked = a.Asked()
	}
	return c
}
