package relay

import (
	"io"
	"sync"

	"golang.org/x/sys/unix"
)

// sparePipes bounds how many pipes are kept for the next flow.
const sparePipes = 16

// pipe is where spliced bytes are between two sockets.
type pipe struct {
	r, w int
	n    int // bytes in it
}

func (p *pipe) close() {
	unix.Close(p.r)
	unix.Close(p.w)
}

// pipePool keeps a few empty pipes: making one costs more than a splice.
type pipePool struct {
	mu    sync.Mutex
	spare []*pipe
}

func (pp *pipePool) get() (*pipe, error) {
	pp.mu.Lock()
	if n := len(pp.spare); n > 0 {
		p := pp.spare[n-1]
		pp.spare = pp.spare[:n-1]
		pp.mu.Unlock()
		return p, nil
	}
	pp.mu.Unlock()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	// The default of 64 KiB works as well, only slower.
	_, _ = unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, pipeSize)
	return &pipe{r: fds[0], w: fds[1]}, nil
}

func (pp *pipePool) put(p *pipe) {
	pp.mu.Lock()
	if len(pp.spare) < sparePipes {
		pp.spare = append(pp.spare, p)
		p = nil
	}
	pp.mu.Unlock()
	if p != nil {
		p.close()
	}
}

func (pp *pipePool) close() {
	pp.mu.Lock()
	defer pp.mu.Unlock()
	for _, p := range pp.spare {
		p.close()
	}
	pp.spare = nil
}

// pumpSplice moves pages between two sockets. The half keeps its pipe only
// while dst has no room for what is in it.
func (r *Relay) pumpSplice(h *half, src, dst *socketEnd, count func(int64)) error {
	for h.pipe == nil && !h.bulk && !src.urgent {
		if !src.readable || !dst.writable {
			return nil
		}
		if err := r.pumpSmall(h, src, dst, count); err != nil {
			return err
		}
	}
	moved := 0
	for dst.writable {
		if h.pipe == nil {
			if !src.readable {
				return nil
			}
			if src.urgent { // splice stops before it, as if there were nothing
				return r.pumpCopy(src, dst, count)
			}
			p, err := r.pipes.get()
			if err != nil { // out of descriptors: slower, but it goes on
				return r.pumpCopy(src, dst, count)
			}
			h.pipe = p
		}
		if h.pipe.n == 0 {
			err := h.fill(r, src)
			if err == nil && h.pipe == nil && src.readable {
				src.urgent = true // what splice does not see is something urgent
				continue
			}
			if err != nil || h.pipe == nil {
				h.bulk = moved > smallMove
				return err
			}
		}
		n, err := splice(h.pipe.r, dst.fd, h.pipe.n)
		if err == unix.EAGAIN {
			dst.writable = false
			return nil
		}
		if err != nil {
			return err
		}
		h.pipe.n -= n
		count(int64(n))
		if moved += n; moved >= budget {
			return errBudget
		}
	}
	return nil
}

// pumpSmall receives and sends once: two system calls, where a splice into a
// pipe, one out of it and one that finds no more are three. A buffer that was
// filled is the sign that there is more.
func (r *Relay) pumpSmall(h *half, src, dst *socketEnd, count func(int64)) error {
	buf := r.buffers.Get().(*[copyBuffer]byte)
	defer r.buffers.Put(buf)
	b := buf[:smallMove]
	n, err := receive(src.fd, b)
	switch {
	case err == unix.EAGAIN:
		src.readable = false
		return nil
	case err != nil:
		return err
	case n == 0:
		return io.EOF
	}
	// A short read has emptied the socket; what comes after it is a new event.
	// All but an end that was there already.
	h.bulk = n == len(b)
	src.readable = h.bulk || src.hangup
	w, err := dst.tryWrite(b[:n])
	if err != nil && err != unix.EAGAIN {
		return err
	}
	w = max(w, 0)
	count(int64(w))
	if w < n {
		h.prefix = append([]byte(nil), b[w:n]...)
		dst.writable, h.bulk = false, false
	}
	return nil
}

func receive(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// fill splices from src into the half's empty pipe. When there is nothing, the
// pipe goes back to the pool.
func (h *half) fill(r *Relay, src *socketEnd) error {
	n, err := 0, error(unix.EAGAIN)
	if src.readable {
		n, err = splice(src.fd, h.pipe.w, r.memory.pipe())
	}
	if n > 0 {
		h.pipe.n = n
		return nil
	}
	r.pipes.put(h.pipe)
	h.pipe = nil
	switch err {
	case nil:
		return src.peekEnd() // EOF, unless there is urgent data
	case unix.EAGAIN:
		src.readable = false
		return nil
	}
	return err
}

func splice(from, to, max int) (int, error) {
	for {
		n, err := unix.Splice(from, nil, to, nil, max, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		if err != unix.EINTR {
			return int(n), err
		}
	}
}

// pumpCopy moves bytes between two sockets without a pipe. It peeks, so that
// what dst has no room for stays where it is.
func (r *Relay) pumpCopy(src, dst *socketEnd, count func(int64)) error {
	buf := r.buffers.Get().(*[copyBuffer]byte)
	defer r.buffers.Put(buf)
	b := buf[:]
	for moved := 0; src.readable && dst.writable; {
		n, _, err := unix.Recvfrom(src.fd, b, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN && holds(src.fd):
			continue
		case err == unix.EAGAIN:
			src.readable = false
			return nil
		case err != nil:
			return err
		case n == 0:
			return io.EOF
		}
		w, err := dst.tryWrite(b[:n])
		if err == unix.EAGAIN {
			dst.writable = false
			return nil
		}
		if err != nil {
			return err
		}
		// MSG_TRUNC discards from a TCP socket without copying (tcp(7)).
		for left := w; left > 0; {
			n, _, err := unix.Recvfrom(src.fd, b[:left], unix.MSG_TRUNC|unix.MSG_DONTWAIT)
			if err == unix.EINTR || err == unix.EAGAIN && holds(src.fd) {
				continue
			}
			if err != nil {
				return err
			}
			if n <= 0 {
				return io.ErrUnexpectedEOF
			}
			left -= n
		}
		count(int64(w))
		if moved += w; moved >= budget {
			return errBudget
		}
	}
	return nil
}

// holds reports whether a socket that said EAGAIN has something to read after
// all: before urgent data it says so when a signal is pending, as the Go
// runtime's own often are (tcp_recvmsg_locked in net/ipv4/tcp.c).
func holds(fd int) bool {
	n, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
	return err == nil && n > 0
}
