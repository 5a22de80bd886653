package auth

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// A brake limits the guessing of passwords. A source address has a few tries of a
// user at once and then one a second, and more of all users together. A try that
// would wait too long is refused, so that the wait is short once the guessing has
// ended. A right password costs no try. Guessing one user's password does not block
// another user at the same address. The zero value is ready.
type brake struct {
	mu      sync.Mutex
	users   budgets[guessed]      // of each user, from each source
	sources budgets[netip.Prefix] // of all users together
	// under are the tries under way.
	under map[sameTry]*outcome
}

const (
	tryBurst       = 10
	tryInterval    = time.Second
	sourceBurst    = 100
	sourceInterval = 50 * time.Millisecond
	tryWait        = 5 * time.Second // the longest that a try waits
	maxBraked      = 8192            // entries
	maxUserName    = 255             // bytes of a user's name (RFC 1929)
)

// guessed is the user whose password is tried, and the source of the try.
type guessed struct {
	source netip.Prefix
	user   string
}

// guess returns the key of a try. A client has all addresses of an IPv6 /64.
func guess(source netip.Addr, user string) guessed {
	source = source.Unmap().WithZone("")
	bits := 64
	if source.Is4() {
		bits = 32
	}
	p, _ := source.Prefix(bits)
	// No user has a longer name, so the name is cut to bound the entry. It is copied
	// because it may alias the handshake's buffer.
	return guessed{p, strings.Clone(user[:min(len(user), maxUserName+1)])}
}

// sameTry is equal for the same credentials from the same source.
type sameTry struct {
	guessed
	tag [32]byte
}

// outcome is the result of a try. Its fields are valid once done is closed.
type outcome struct {
	done    chan struct{}
	right   bool
	decided bool // false: the client left before
}

// share calls verify, or waits for the outcome of such a call that is under way
// for the same try. It reports false when ctx ends.
func (b *brake) share(ctx context.Context, t sameTry, verify func() bool) bool {
	for {
		b.mu.Lock()
		o := b.under[t]
		if o == nil {
			o = &outcome{done: make(chan struct{})}
			if b.under == nil {
				b.under = make(map[sameTry]*outcome)
			}
			b.under[t] = o
			b.mu.Unlock()
			o.right = verify()
			o.decided = o.right || ctx.Err() == nil
			b.mu.Lock()
			delete(b.under, t)
			b.mu.Unlock()
			close(o.done)
			return o.right
		}
		b.mu.Unlock()
		select {
		case <-o.done:
			if o.decided {
				return o.right
			}
		case <-ctx.Done():
			return false
		}
	}
}

// try takes one try and returns how long to wait before it. It reports false
// when too many wait; such a try costs nothing.
func (b *brake) try(key guessed) (wait time.Duration, ok bool) {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	user, wait := b.users.next(now, key, tryInterval, tryBurst)
	source, more := b.sources.next(now, key.source, sourceInterval, sourceBurst)
	if wait = max(wait, more); wait > tryWait {
		return 0, false
	}
	b.users.set(now, key, user)
	b.sources.set(now, key.source, source)
	return wait, true
}

// giveBack returns a try whose password was right.
func (b *brake) giveBack(key guessed) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.users.giveBack(key, tryInterval)
	b.sources.giveBack(key.source, sourceInterval)
}

// budgets limit tries by key: a burst at once, then one in each interval. The time
// is when the whole burst is available again; no entry is needed after it.
type budgets[K comparable] map[K]time.Time

// next returns the entry after one more try, and how long that try has to wait.
func (b budgets[K]) next(now time.Time, key K, interval time.Duration, burst int) (free time.Time, wait time.Duration) {
	free = b[key]
	if free.Before(now) {
		free = now
	}
	free = free.Add(interval)
	return free, max(0, free.Sub(now)-time.Duration(burst)*interval)
}

// set changes an entry. It bounds the number of entries: it deletes those that are
// no longer needed, or else any half.
func (b *budgets[K]) set(now time.Time, key K, free time.Time) {
	if *b == nil {
		*b = make(budgets[K])
	}
	(*b)[key] = free
	if len(*b) <= maxBraked {
		return
	}
	for key, free := range *b {
		if !free.After(now) {
			delete(*b, key)
		}
	}
	for key := range *b {
		if len(*b) <= maxBraked/2 {
			return
		}
		delete(*b, key)
	}
}

func (b budgets[K]) giveBack(key K, interval time.Duration) {
	if free, ok := b[key]; ok {
		b[key] = free.Add(-interval)
	}
}
