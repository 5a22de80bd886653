package socks

import (
	"context"
	"io"
	"net"
	"sync"
)

// Relay copies between two connections until both directions have ended.
type Relay interface {
	// Join takes ownership of the flow, which is the one that Config.Open made,
	// and of both connections. It returns at once, and calls f.Close at the end.
	Join(f Flow, inbound, outbound net.Conn)
}

// copies is the Relay of a Server that has no other: two goroutines for each
// connection. A FIN is passed on, and the other direction continues. An error of
// one end resets both.
type copies struct {
	ctx     context.Context // resets the connections when it ends
	running *sync.WaitGroup
}

// Join implements Relay. Bytes are counted when their direction has ended, because
// a copy within the kernel has no count before.
func (r copies) Join(f Flow, inbound, outbound net.Conn) {
	reset := func() {
		abort(inbound)
		abort(outbound)
	}
	unhook := context.AfterFunc(r.ctx, reset)
	f.OnKill(reset)
	var both sync.WaitGroup
	direction := func(dst, src net.Conn, count func(int64)) {
		dst = writable(dst)
		n, err := io.Copy(dst, src)
		count(n)
		if err == nil {
			err = finish(dst)
		}
		if err != nil {
			reset()
		}
	}
	both.Go(func() { direction(outbound, inbound, f.AddUp) })
	r.running.Go(func() {
		direction(inbound, outbound, f.AddDown)
		both.Wait()
		unhook()
		inbound.Close()
		outbound.Close()
		f.Close()
	})
}

// finish passes the end of the stream on. Without a half-close it ends both
// directions.
func finish(c net.Conn) error {
	if c, ok := c.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return c.Close()
}

// writable returns the connection below a prefix, which io.Copy can splice to.
func writable(c net.Conn) net.Conn {
	if p, ok := c.(*prefixed); ok {
		return p.Conn
	}
	return c
}
