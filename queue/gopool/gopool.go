// Package gopool runs short functions on goroutines that are kept for the next.
//
// # Theory of operation
//
// A goroutine starts with a small stack. Each time the stack is too small, the
// runtime copies it to one of twice the size. A function that opens a
// connection causes two or three copies, 5 % of the CPU time of a short
// connection. A goroutine that has finished such a function has a stack of the
// right size, so the pool keeps a few of them. It reuses the goroutine that
// finished last, because its stack is still in the processor's cache.
package gopool

import "sync"

// spares is the limit of idle goroutines: about the number of connections that
// are opened at the same time. Each holds about 8 KB.
const spares = 32

// Pool runs functions. Its zero value is ready. The owner of the pool calls
// Wait at the end.
type Pool struct {
	wg sync.WaitGroup

	mu    sync.Mutex
	spare []chan func() // one for each goroutine that waits
	ended bool
}

// Go runs f on its own goroutine, as the go statement does.
func (p *Pool) Go(f func()) {
	p.mu.Lock()
	if n := len(p.spare); n > 0 {
		next := p.spare[n-1]
		p.spare = p.spare[:n-1]
		p.mu.Unlock()
		next <- f
		return
	}
	p.mu.Unlock()
	p.wg.Go(func() { p.work(f) })
}

// work runs f, and then the functions that Go passes to this goroutine.
func (p *Pool) work(f func()) {
	next := make(chan func(), 1) // Go doesn't wait
	for f != nil {
		f()
		if !p.rest(next) {
			return
		}
		f = <-next
	}
}

// rest adds the goroutine to the idle ones. It reports false when the goroutine
// must end.
func (p *Pool) rest(next chan func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended || len(p.spare) == spares {
		return false
	}
	p.spare = append(p.spare, next)
	return true
}

// Wait waits until all functions have returned, and ends the goroutines. Go must
// not be called after Wait. During Wait only a running function may call it.
func (p *Pool) Wait() {
	p.mu.Lock()
	p.ended = true
	for _, next := range p.spare {
		close(next)
	}
	p.spare = nil
	p.mu.Unlock()
	p.wg.Wait()
}
