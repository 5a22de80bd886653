// Package auth holds the users of a proxy and their passwords, and limits how fast
// passwords can be guessed.
//
// A password is given plain or as a bcrypt, argon2id or argon2i hash. A comparison
// takes the same time for an unknown user as for a wrong password. Hashes are
// computed on half of the cores at most; right credentials are remembered as a keyed
// digest, so that each is hashed once.
//
// A source address has ten tries of a user at once and then one a second, and 100
// tries and then 20 a second of all users. A right password costs no try.
package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"netstackd/socks/wire"
)

// Credentials is a list of users with a password each. They come from the program
// and from a file, which can be read again while the server runs. Its String method
// hides them. It is a socks.Authenticator.
type Credentials struct {
	inline []string // USER:SECRET, for the next Reload
	file   string
	cpu    chan struct{} // bounds the costly comparisons under way
	brake  brake

	mu      sync.RWMutex
	users   map[string]secret
	changes Change
	decoy   secret            // what the passwords of unknown users are compared with
	key     []byte            // of known; each load makes another
	known   map[[32]byte]bool // digests of credentials that were right
}

// maxKnown bounds the cache of verified credentials.
const maxKnown = 4096

// Change counts what a Reload did to the list of users.
type Change struct{ Users, Added, Removed, Changed int }

// Error is an error of New or Reload.
type Error struct {
	File string // the file that is wrong, "" for the entries beside it
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// New takes entries of the form USER:SECRET and, unless it is "", a
// file with one such entry a line. Empty lines and lines that begin with # are
// ignored. A SECRET that is a bcrypt ($2b$…) or argon2 ($argon2id$…)
// hash is one; everything else is the password itself, which may be empty. An
// error is an *Error. It has the number of an entry, never its text.
func New(entries []string, file string) (*Credentials, error) {
	c := &Credentials{inline: append([]string(nil), entries...), file: file}
	c.cpu = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))
	if err := c.Reload(); err != nil {
		return nil, err
	}
	return c, nil
}

// Reload reads the file again. On an error everything stays as it was.
func (c *Credentials) Reload() error {
	users := make(map[string]secret)
	for i, e := range c.inline {
		if err := addEntry(users, e); err != nil {
			return &Error{Err: fmt.Errorf("auth: entry %d: %w", i+1, err)}
		}
	}
	if c.file != "" {
		text, err := os.ReadFile(c.file)
		if err != nil {
			return &Error{File: c.file, Err: fmt.Errorf("auth: %w", err)}
		}
		for i, line := range strings.Split(string(text), "\n") {
			line = strings.TrimSuffix(line, "\r")
			if strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#") {
				continue
			}
			if err := addEntry(users, line); err != nil {
				return &Error{File: c.file, Err: fmt.Errorf("auth: %s, line %d: %w", c.file, i+1, err)}
			}
		}
	}
	if len(users) == 0 {
		return &Error{File: c.file, Err: errors.New("auth: no users: add a line USER:PASSWORD")}
	}
	// An unknown user takes as long as the slowest hash.
	var decoy secret
	for _, s := range users {
		if decoy == nil || s.cost() > decoy.cost() {
			decoy = s
		}
	}
	key := make([]byte, 32)
	rand.Read(key)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes = changesOf(c.users, users)
	c.users, c.decoy, c.key, c.known = users, decoy, key, make(map[[32]byte]bool)
	return nil
}

// Changes returns what the last Reload that succeeded did.
func (c *Credentials) Changes() Change {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.changes
}

func changesOf(before, after map[string]secret) Change {
	change := Change{Users: len(after), Removed: len(before)}
	for user, s := range after {
		old, had := before[user]
		if !had {
			change.Added++
			continue
		}
		change.Removed--
		if old.identity() != s.identity() {
			change.Changed++
		}
	}
	return change
}

func addEntry(users map[string]secret, entry string) error {
	user, text, ok := strings.Cut(entry, ":")
	if !ok {
		return errors.New("no colon: write USER:PASSWORD or USER:HASH")
	}
	if len(user) > maxUserName {
		return errors.New("the user name is longer than 255 bytes")
	}
	if _, twice := users[user]; twice {
		return errors.New("the user is there twice: remove one")
	}
	s, err := parseSecret(text)
	if err != nil {
		return err
	}
	users[user] = s
	return nil
}

// Verify reports whether the credentials are right. It does the same work for an
// unknown user, and takes as long for any wrong password. It returns false when
// ctx ends.
func (c *Credentials) Verify(ctx context.Context, up wire.UserPass) bool {
	c.mu.RLock()
	s, exists := c.users[up.User]
	if !exists {
		s = c.decoy
	}
	tag := tagOf(c.key, up)
	known, gen := c.known[tag], c.known
	c.mu.RUnlock()
	if known { // right once before
		return true
	}
	if s.cost() > 0 {
		select {
		case c.cpu <- struct{}{}:
			defer func() { <-c.cpu }()
		case <-ctx.Done():
			return false
		}
	}
	right := s.matches(up.Pass)
	if !right || !exists {
		return false
	}
	if s.cost() > 0 {
		c.mu.Lock()
		if len(gen) >= maxKnown {
			clear(gen)
		}
		gen[tag] = true // of the list that was compared: a Reload may have replaced it
		c.mu.Unlock()
	}
	return true
}

// VerifyFrom is Verify with a limit on the tries of a source address. A try that
// would wait too long is refused without a comparison. The same password on several
// connections at once is one try.
func (c *Credentials) VerifyFrom(ctx context.Context, source netip.Addr, up wire.UserPass) bool {
	key := guess(source, up.User)
	c.mu.RLock()
	tag := tagOf(c.key, up)
	c.mu.RUnlock()
	return c.brake.share(ctx, sameTry{key, tag}, func() bool { return c.verifyBraked(ctx, key, up) })
}

func (c *Credentials) verifyBraked(ctx context.Context, key guessed, up wire.UserPass) bool {
	wait, ok := c.brake.try(key)
	if !ok {
		return false
	}
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return false
		}
	}
	if !c.Verify(ctx, up) {
		return false
	}
	c.brake.giveBack(key)
	return true
}

// tagOf names credentials without holding them.
func tagOf(key []byte, up wire.UserPass) [32]byte {
	h := hmac.New(sha256.New, key)
	fmt.Fprintf(h, "%d:%s%s", len(up.User), up.User, up.Pass)
	return [32]byte(h.Sum(nil))
}

// String hides what c holds.
func (c *Credentials) String() string { return "[credentials]" }

// GoString hides what c holds.
func (c *Credentials) GoString() string { return c.String() }

// LogValue hides what c holds.
func (c *Credentials) LogValue() slog.Value { return slog.StringValue(c.String()) }
