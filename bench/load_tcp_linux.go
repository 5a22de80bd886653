package bench

import (
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

func (l *load) upload(i int) error {
	fd, err := l.dial(i, portSink)
	if err != nil {
		return err
	}
	defer l.reset(fd)
	b := make([]byte, bulkSize)
	for !l.stopping.Load() {
		if err := writeFull(fd, b); err != nil {
			return err
		}
	}
	return nil
}

func (l *load) download(i int) error {
	fd, err := l.dial(i, portSource)
	if err != nil {
		return err
	}
	defer l.reset(fd)
	b := make([]byte, bulkSize)
	for {
		n, err := readSome(fd, b)
		if err != nil {
			return err
		}
		l.bytes.Add(int64(n))
	}
}

// request counts nothing in common while it runs: it is about latency.
func (l *load) request(i int) error {
	fd, err := l.dial(i, portEcho)
	if err != nil {
		return err
	}
	defer l.close(fd)
	latencies := make([]time.Duration, 0, 1<<20)
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.latencies = append(l.latencies, latencies...)
	}()
	b := make([]byte, requestSize)
	for !l.stopping.Load() {
		start := time.Now()
		if err := exchange(fd, b); err != nil {
			return err
		}
		if len(latencies) < cap(latencies) {
			latencies = append(latencies, time.Since(start))
		}
		l.done.Add(1)
		l.bytes.Add(requestSize)
	}
	return nil
}

func exchange(fd int, b []byte) error {
	if err := writeFull(fd, b); err != nil {
		return err
	}
	return readFull(fd, b)
}

// connect makes one connection after another. The server closes first, as
// HTTP/1.0's did, so that no port of the client has to wait.
func (l *load) connect(i int) error {
	b := make([]byte, requestSize)
	for ; !l.stopping.Load(); i += l.Conns {
		if err := l.once(i, b); err != nil && !l.stopping.Load() {
			l.fail(err)
			time.Sleep(time.Millisecond) // a path that refuses is not hammered
		}
	}
	return nil
}

func (l *load) once(i int, b []byte) error {
	fd, err := l.dial(i, portOnce)
	if err != nil {
		return err
	}
	defer l.close(fd)
	if err := exchange(fd, b); err != nil {
		return err
	}
	if _, err := readSome(fd, b); err != io.EOF {
		return fmt.Errorf("after the response: %w, want the end", err)
	}
	l.done.Add(1)
	l.bytes.Add(requestSize)
	return nil
}

// hold opens the connections, 16 at a time, and keeps them.
func (l *load) hold() error {
	open := l.holdTCP
	if l.Kind == HoldUDP {
		open = l.holdUDP
	}
	next := make(chan int)
	var openers sync.WaitGroup
	for range 16 {
		openers.Go(func() {
			for i := range next {
				if err := open(i); err != nil {
					l.fail(fmt.Errorf("flow %d: %w", i, err))
				}
			}
		})
	}
	for i := range l.Conns {
		next <- i
	}
	close(next)
	openers.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first
}

func (l *load) holdTCP(i int) error {
	fd, err := l.dial(i, portHold)
	if err != nil {
		return err
	}
	return l.say(fd)
}

// say exchanges one message, and so fills what is filled by a flow's first.
func (l *load) say(fd int) error {
	b := slices.Repeat([]byte{'x'}, requestSize)
	if err := exchange(fd, b); err != nil {
		return err
	}
	l.done.Add(1)
	l.bytes.Add(requestSize)
	return nil
}
