package bench

import (
	"fmt"
	"io"
	"net"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// The ports of the server, one for each kind of load.
const (
	portSink   = 7001 // reads all there is
	portSource = 7002 // writes until the client closes
	portEcho   = 7003 // answers each request with as many bytes
	portOnce   = 7004 // answers one, and closes
	portHold   = 7005 // as portEcho, for many that are idle
	portUDP    = 7006 // sends back each datagram
	portTrain  = 7007 // the same, in trains as they came
)

const (
	bulkSize    = 128 << 10 // of one read or write
	requestSize = 128       // of a request, and of its answer
	workers     = 64        // threads that accept, on each of the request ports
)

// server is what the agent on host B runs. It lives as long as its process.
type server struct {
	received atomic.Int64 // bytes, by the sinks
}

func (s *server) start() error {
	for port, handle := range map[uint16]func(fd int, buf []byte){
		portSink: s.sink, portSource: s.source, portEcho: s.echo, portOnce: s.once,
	} {
		fd, err := listenTCP(port)
		if err != nil {
			return err
		}
		for range workers {
			go serve(fd, handle)
		}
	}
	ln, err := net.Listen("tcp4", fmt.Sprintf(":%d", portHold))
	if err != nil {
		return err
	}
	go s.hold(ln)
	for _, port := range []uint16{portUDP, portTrain} {
		for range 2 {
			fd, err := listenUDP(port)
			if err != nil {
				return err
			}
			go echoUDP(fd, port == portTrain)
		}
	}
	return nil
}

// serve is one thread that takes connections one at a time.
func serve(listener int, handle func(fd int, buf []byte)) {
	buf := make([]byte, bulkSize)
	for {
		fd, err := acceptTCP(listener)
		if err != nil {
			continue // the client gave up, or descriptors are short
		}
		handle(fd, buf)
		unix.Close(fd)
	}
}

func (s *server) sink(fd int, buf []byte) {
	for {
		n, err := readSome(fd, buf)
		if err != nil {
			return
		}
		s.received.Add(int64(n))
	}
}

func (s *server) source(fd int, buf []byte) {
	for writeFull(fd, buf) == nil {
	}
}

func (s *server) echo(fd int, buf []byte) {
	for answer(fd, buf[:requestSize]) == nil {
	}
}

func (s *server) once(fd int, buf []byte) { _ = answer(fd, buf[:requestSize]) }

func answer(fd int, b []byte) error {
	if err := readFull(fd, b); err != nil {
		return err
	}
	return writeFull(fd, b)
}

// hold takes thousands of connections, so that they may not have a thread each.
func (s *server) hold(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			continue
		}
		go func() {
			defer c.Close()
			var b [requestSize]byte
			for {
				if _, err := io.ReadFull(c, b[:]); err != nil {
					return
				}
				if _, err := c.Write(b[:]); err != nil {
					return
				}
			}
		}()
	}
}
