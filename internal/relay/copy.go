package relay

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"netstackd/internal/epoll"
	"netstackd/internal/flow"
	"netstackd/internal/sys"
)

const copyBuffer = 64 << 10

// joinCopy relays between connections of which at least one has no descriptor
// to work with.
func (r *Relay) joinCopy(f *flow.Flow, in, out net.Conn, inPrefix, outPrefix []byte) {
	var broken atomic.Bool
	abort := func() {
		if broken.CompareAndSwap(false, true) {
			sys.CloseWithReset(in)
			sys.CloseWithReset(out)
		}
	}
	f.OnKill(abort)
	var both sync.WaitGroup
	direction := func(dst, src net.Conn, prefix []byte, count func(int64)) {
		if err := r.copyHalf(dst, src, prefix, count); err != nil {
			abort()
		}
	}
	both.Go(func() { direction(out, in, inPrefix, f.AddUp) })
	both.Go(func() { direction(in, out, outPrefix, f.AddDown) })
	settleIn, settleOut := r.watchEnd(in, abort), r.watchEnd(out, abort)
	go func() {
		both.Wait()
		settleIn()
		settleOut()
		in.Close()
		out.Close()
		r.ended(f)
	}()
}

// watchEnd calls abort when a connection in the stack is reset. After its FIN, no
// read reports a reset, and only a write would. When both directions have ended,
// the caller calls the function that it returns: that waits until the connection
// is settled.
func (r *Relay) watchEnd(c net.Conn, abort func()) (settle func()) {
	ep, ok := c.(Endpoint)
	if !ok {
		return func() {}
	}
	ended := make(chan struct{})
	var once sync.Once
	task := epoll.NewTask(r.loop, func() {
		if ep.Broken() != nil {
			abort()
		}
		if ep.Settled() {
			once.Do(func() { close(ended) })
		}
	})
	ep.Watch(func(events uint32) {
		if events&(epoll.HUp|epoll.Err) != 0 {
			task.Schedule()
		}
	})
	return func() {
		if !ep.Settled() {
			<-ended
		}
		ep.Unwatch()
	}
}

func (r *Relay) copyHalf(dst, src net.Conn, prefix []byte, count func(int64)) error {
	if len(prefix) > 0 {
		if _, err := dst.Write(prefix); err != nil {
			return err
		}
		count(int64(len(prefix)))
	}
	buf := r.buffers.Get().(*[copyBuffer]byte)
	defer r.buffers.Put(buf)
	b := buf[:]
	for {
		n, rerr := src.Read(b)
		if n > 0 {
			if _, err := dst.Write(b[:n]); err != nil {
				return err
			}
			count(int64(n))
		}
		if errors.Is(rerr, io.EOF) {
			return closeWrite(dst)
		}
		if rerr != nil {
			return rerr
		}
	}
}

// closeWrite passes a FIN on. A connection that cannot be half-closed is left
// open: the other direction would be cut with it.
func closeWrite(c net.Conn) error {
	if c, ok := c.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}
