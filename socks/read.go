package socks

import (
	"io"
	"net"
	"sync"
)

// handshakeSize holds the longest message of any handshake, and with it a
// whole pipelined one: greeting 257, user and password 513, request 262.
const handshakeSize = 1536

var handshakeBuffers = sync.Pool{New: func() any { return new([handshakeSize]byte) }}

// reader reads handshake messages from a connection into one pooled buffer. It waits
// for the next message only; what follows the last one is early data (see rest).
type reader struct {
	conn net.Conn
	buf  *[handshakeSize]byte // nil after free
	r, w int                  // buf[r:w] is read but not consumed
}

func newReader(c net.Conn) *reader {
	return &reader{conn: c, buf: handshakeBuffers.Get().(*[handshakeSize]byte)}
}

// bytes returns what is read but not consumed; valid until the next read.
func (r *reader) bytes() []byte { return r.buf[r.r:r.w] }

func (r *reader) consume(n int) { r.r += n }

// more reads at least one byte more. The error is io.ErrShortBuffer when the
// buffer is full, which no valid message can make it.
func (r *reader) more() error {
	if r.r > 0 {
		r.w = copy(r.buf[:], r.buf[r.r:r.w])
		r.r = 0
	}
	if r.w == len(r.buf) {
		return io.ErrShortBuffer
	}
	n, err := r.conn.Read(r.buf[r.w:])
	r.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// rest returns a copy of the early data, nil when there is none.
func (r *reader) rest() []byte {
	if r.buf == nil || r.r == r.w {
		return nil
	}
	return append([]byte(nil), r.bytes()...)
}

// free gives the buffer back. What rest or message returned stays valid; what
// bytes returned does not.
func (r *reader) free() {
	if r.buf != nil {
		clear(r.buf[:]) // it held passwords
		handshakeBuffers.Put(r.buf)
		r.buf = nil
	}
}

// message reads until parse has a whole message and consumes it. What parse
// returned may alias the buffer until the next read.
func message[M any](r *reader, parse func([]byte) (M, int, error)) (M, error) {
	for {
		m, n, err := parse(r.bytes())
		if err != io.ErrUnexpectedEOF {
			r.consume(n)
			return m, err
		}
		if err := r.more(); err != nil {
			return m, err
		}
	}
}
