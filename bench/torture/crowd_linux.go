package main

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

// crowd is many connections that are held open.
type crowd struct {
	mu    sync.Mutex
	conns []net.Conn
	first error // of the connections that failed
	tried int
}

// gather opens most connections, so many a second, gives each to say, and
// keeps it. It returns when all are open or have failed, or ctx ends.
func (c *crowd) gather(ctx context.Context, p path, port uint16, perSecond, most int, say func(net.Conn, int) error) error {
	const atOnce = 200
	slots := make(chan struct{}, atOnce)
	var dials sync.WaitGroup
	defer dials.Wait()
	return paced(ctx, perSecond, most, func(i int) error {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		dials.Go(func() {
			defer func() { <-slots }()
			c.add(c.open(ctx, p, i, port, say))
		})
		return nil
	})
}

func (c *crowd) open(ctx context.Context, p path, i int, port uint16, say func(net.Conn, int) error) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, timeoutDefault)
	defer cancel()
	conn, err := p.connect(ctx, i%60_000, port)
	if err != nil {
		return nil, err
	}
	if say != nil {
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		err = say(conn, i)
		_ = conn.SetDeadline(time.Time{})
	}
	return conn, err
}

func (c *crowd) add(conn net.Conn, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tried++
	if conn != nil {
		c.conns = append(c.conns, conn)
	}
	if err != nil && c.first == nil {
		c.first = err
	}
}

// disperse resets all of them.
func (c *crowd) disperse() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		abort(conn)
	}
	c.conns = nil
}

// String is how many there are.
func (c *crowd) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := fmt.Sprintf("%d of %d connections held", len(c.conns), c.tried)
	if c.first != nil {
		text += fmt.Sprintf("; the first failure: %v", c.first)
	}
	return text
}

// hold has a crowd on a path for as long as the window lasts.
func hold(p func(n *network) path, port uint16, perSecond, most int, say func(net.Conn, int) error) func(context.Context, *run) error {
	return func(ctx context.Context, r *run) error {
		var c crowd
		defer c.disperse()
		err := c.gather(ctx, p(r.net), port, perSecond, most, say)
		<-ctx.Done()
		r.note("%v", &c)
		return err
	}
}

// peak watches netstackd's memory until ctx ends, and returns the most that
// the process and its sockets had.
func (r *run) peak(ctx context.Context) (process, sockets int64) {
	for ctx.Err() == nil {
		p, s := r.daemon.memory(context.WithoutCancel(ctx))
		if p+s > process+sockets {
			process, sockets = p, s
		}
		pause(ctx, 250*time.Millisecond)
	}
	return process, sockets
}

// withinBudget puts a load on and checks that process and sockets stay within
// --max-memory and 32 MiB.
func withinBudget(budget int64, load func(context.Context, *run) error) func(context.Context, *run) error {
	return func(ctx context.Context, r *run) error {
		var process, sockets int64
		var watch sync.WaitGroup
		watch.Go(func() { process, sockets = r.peak(ctx) })
		err := load(ctx, r)
		watch.Wait()
		most := budget + 32<<20
		r.check(process+sockets <= most, fmt.Sprintf("process + sockets ≤ %d MiB", most>>20),
			"%d + %d MiB", process>>20, sockets>>20)
		return err
	}
}
