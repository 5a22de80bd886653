package main

import (
	"io"
	"net"
	"sync"
	"sync/atomic"

	"golang.org/x/net/dns/dnsmessage"
)

// The ports of the servers on B.
const (
	portEcho   = 7000 // TCP and UDP: sends back what comes
	portSource = 7001 // writes until the client closes
	portStuck  = 7002 // takes connections and never reads
	portProxy  = 1080 // the upstream of the rows that have one
)

// servers are what runs on B.
type servers struct {
	listeners []io.Closer
	tasks     sync.WaitGroup
	mu        sync.Mutex
	open      map[net.Conn]struct{}
	closed    bool
	dnsDead   atomic.Bool // nameservers take queries and say nothing
}

func startServers(b *host) (*servers, error) {
	s := &servers{open: map[net.Conn]struct{}{}}
	for port, handle := range map[string]func(net.Conn){
		":7000": echo, ":7001": source, ":7002": s.stuck,
	} {
		if err := s.serve(b, port, handle); err != nil {
			s.close()
			return nil, err
		}
	}
	for address, handle := range map[string]func(*net.UDPConn){
		":7000": echoUDP, nameserver + ":53": s.nameserver,
	} {
		c, err := b.listenUDP(address)
		if err != nil {
			s.close()
			return nil, err
		}
		s.listeners = append(s.listeners, c)
		s.tasks.Go(func() { handle(c) })
	}
	return s, nil
}

// serve gives each connection to handle, and closes it afterwards.
func (s *servers) serve(h *host, address string, handle func(net.Conn)) error {
	l, err := h.listen(address)
	if err != nil {
		return err
	}
	s.listeners = append(s.listeners, l)
	s.tasks.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if !s.own(c) {
				return
			}
			s.tasks.Go(func() {
				handle(c)
				s.disown(c)
			})
		}
	})
	return nil
}

func (s *servers) own(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		c.Close()
		return false
	}
	s.open[c] = struct{}{}
	return true
}

func (s *servers) disown(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
	c.Close()
}

// reset aborts every connection that a handler has open, on one port or, for
// 0, on all.
func (s *servers) reset(port int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		if port == 0 || c.LocalAddr().(*net.TCPAddr).Port == port {
			abort(c)
		}
	}
}

// abort closes a connection with a reset: what is queued goes at once.
func abort(c net.Conn) {
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
}

func (s *servers) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.reset(0)
	for _, l := range s.listeners {
		l.Close()
	}
	s.tasks.Wait()
}

// echo sends back what it receives, and its FIN after the client's.
func echo(c net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := c.Read(buf)
		if _, werr := c.Write(buf[:n]); werr != nil {
			return
		}
		if err != nil {
			return
		}
	}
}

func source(c net.Conn) {
	for {
		if _, err := c.Write(pattern()[:64<<10]); err != nil {
			return
		}
	}
}

// stuck waits for the end of the servers without reading.
func (s *servers) stuck(c net.Conn) {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err == nil {
		_ = raw.Read(func(uintptr) bool { return s.isClosed() }) // close ends the wait
	}
}

func (s *servers) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

func echoUDP(c *net.UDPConn) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		_, _ = c.WriteToUDPAddrPort(buf[:n], from)
	}
}

// nameserver answers each question for an IPv4 address with one of B's.
func (s *servers) nameserver(c *net.UDPConn) {
	buf := make([]byte, 4096)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		if answer, ok := answer(buf[:n]); ok && !s.dnsDead.Load() {
			_, _ = c.WriteToUDPAddrPort(answer, from)
		}
	}
}

func answer(query []byte) ([]byte, bool) {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return nil, false
	}
	q, err := p.Question()
	if err != nil {
		return nil, false
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: h.ID, Response: true, RecursionAvailable: true},
		Questions: []dnsmessage.Question{q},
	}
	if q.Type == dnsmessage.TypeA {
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
			Body:   &dnsmessage.AResource{A: [4]byte{10, 78, 0, 1}},
		}}
	}
	out, err := m.Pack()
	return out, err == nil
}
