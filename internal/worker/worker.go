// Package worker runs short functions on goroutines that are kept for the next.
//
// # Theory of operation
//
// A goroutine starts with a small stack, and the runtime copies it to one of
// twice the size each time it doesn't suffice: for a function that opens a
// connection that is two or three times, and a twentieth of all that a short
// connection costs. A goroutine that has done its work has the stack that the
// next one needs. A few such are kept; the one that was used last, whose stack
// is in the processor's cache, is the first to be used again.
package worker

import "sync"

// spares is how many goroutines wait for work at most: about as many as
// connections are opened at the same time, at some 8 KB each.
const spares = 32

// Pool runs functions. Its zero value is ready. Whoever calls Go calls Wait in
// the end.
type Pool struct {
	wg sync.WaitGroup

	mu    sync.Mutex
	spare []chan func() // one for each goroutine that waits
	ended bool
}

// Go runs f on a goroutine of its own, as the go statement does.
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

// work runs f and what comes after it.
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

// rest makes a goroutine one that waits, unless there are enough of them.
func (p *Pool) rest(next chan func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended || len(p.spare) == spares {
		return false
	}
	p.spare = append(p.spare, next)
	return true
}

// Wait waits for all functions to return, and ends the goroutines. There must
// be no call of Go after it, nor at the same time but from such a function.
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
