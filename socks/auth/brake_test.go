package auth_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"netstackd/socks/auth"
	"netstackd/socks/wire"
)

var (
	alice = netip.MustParseAddr("10.0.0.1")
	bob   = netip.MustParseAddr("10.0.0.2")
)

// Guessing from one address is held to a try a second after the first ten,
// however many connections it uses. Another address, another user at the same
// one, and a right password after the guessing has ended are let in at once or
// soon.
func TestCredentialsBrake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := credentials(t, "u:right", "other:right")
		right := wire.UserPass{User: "u", Pass: "right"}
		const seconds = 60
		begin := time.Now()
		var tries, refused atomic.Int64
		var guessers sync.WaitGroup
		for i := range 20 {
			guess := wire.UserPass{User: "u", Pass: fmt.Sprint("wrong", i)}
			guessers.Go(func() {
				for time.Since(begin) < seconds*time.Second {
					start := time.Now()
					if c.VerifyFrom(t.Context(), alice, guess) {
						t.Error("a wrong password was taken")
					}
					if time.Since(start) > 0 {
						tries.Add(1) // it has waited
					} else {
						refused.Add(1)
						time.Sleep(10 * time.Millisecond) // the way there and back
					}
				}
			})
		}
		time.Sleep(seconds / 2 * time.Second)
		start := time.Now()
		if !c.VerifyFrom(t.Context(), bob, right) {
			t.Error("another address is refused")
		}
		if !c.VerifyFrom(t.Context(), alice, wire.UserPass{User: "other", Pass: "right"}) {
			t.Error("another user at the address is refused")
		}
		if took := time.Since(start); took > 0 {
			t.Errorf("others waited %v", took)
		}
		guessers.Wait()
		// The first ten do not wait, and count as refused here.
		if n := tries.Load(); n > seconds+10 || n < seconds-10 {
			t.Errorf("%d tries in %d s", n, seconds)
		}
		if refused.Load() < 1000 {
			t.Errorf("%d refused: the guessing was not fast", refused.Load())
		}
		time.Sleep(time.Second)
		start = time.Now()
		if !c.VerifyFrom(t.Context(), alice, right) {
			t.Error("the right password is refused after the guessing")
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// The guessing of one source is bounded for all users together, and it can't have
// the brake forget it by naming many users. Other sources are not held up.
func TestCredentialsBrakeManyUsers(t *testing.T) {
	for _, source := range []string{"10.0.0.1", "2001:db8::1"} {
		synctest.Test(t, func(t *testing.T) {
			c := credentials(t, "u:"+bcryptHash(t, "right"))
			compared := auth.CountHashes(c)
			const seconds = 5
			from := netip.MustParseAddr(source)
			for i := range seconds * 2000 {
				src, up := from, wire.UserPass{User: "u", Pass: fmt.Sprint(i)}
				if i%2 == 0 {
					up.User = fmt.Sprint("user", i)
				}
				if src.Is6() { // a client has its whole network
					b := src.As16()
					b[14], b[15] = byte(i>>8), byte(i)
					src = netip.AddrFrom16(b)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Microsecond)
				c.VerifyFrom(ctx, src, up)
				cancel()
				time.Sleep(400 * time.Microsecond)
			}
			if n := compared(); n > 40*seconds || n < 10 {
				t.Errorf("%s: %d passwords compared in %d s", source, n, seconds)
			}
			if n, _ := auth.Braked(c); n > 500 {
				t.Errorf("%d entries are kept of one source", n)
			}
			start := time.Now()
			if !c.VerifyFrom(t.Context(), bob, wire.UserPass{User: "u", Pass: "right"}) || time.Since(start) > 0 {
				t.Errorf("another address waited %v, or is refused", time.Since(start))
			}
		})
	}
}

// A right password costs nothing, however often it is used.
func TestCredentialsBrakeRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := credentials(t, "u:right")
		start := time.Now()
		for range 1000 {
			if !c.VerifyFrom(t.Context(), alice, wire.UserPass{User: "u", Pass: "right"}) {
				t.Fatal("refused")
			}
		}
		if took := time.Since(start); took > 0 {
			t.Errorf("it took %v", took)
		}
	})
}

// A client that opens many connections at once tries one password, not many:
// none waits and none is refused, however long the comparison takes.
func TestCredentialsBrakeManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := credentials(t, "u:"+bcryptHash(t, "right"))
		resume := auth.HoldHashes(c)
		start := time.Now()
		var refused atomic.Int64
		var clients sync.WaitGroup
		for range 50 {
			clients.Go(func() {
				if !c.VerifyFrom(t.Context(), alice, wire.UserPass{User: "u", Pass: "right"}) {
					refused.Add(1)
				}
			})
		}
		gone, leave := context.WithCancel(t.Context())
		leave()
		if c.VerifyFrom(gone, alice, wire.UserPass{User: "u", Pass: "right"}) {
			t.Error("one that has left is let in")
		}
		synctest.Wait() // all that can are in the comparison, or wait for it
		resume()
		clients.Wait()
		if n, took := refused.Load(), time.Since(start); n > 0 || took > 0 {
			t.Errorf("%d of 50 refused, the last after %v", n, took)
		}
	})
}

// One that leaves during the comparison does not take the others with it.
func TestCredentialsBrakeFirstLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := credentials(t, "u:"+bcryptHash(t, "right"))
		resume := auth.HoldHashes(c)
		right := wire.UserPass{User: "u", Pass: "right"}
		first, leave := context.WithCancel(t.Context())
		var clients sync.WaitGroup
		clients.Go(func() { c.VerifyFrom(first, alice, right) })
		synctest.Wait()
		clients.Go(func() {
			if !c.VerifyFrom(t.Context(), alice, right) {
				t.Error("refused because another has left")
			}
		})
		synctest.Wait()
		leave()
		synctest.Wait()
		resume()
		clients.Wait()
	})
}

// What is kept of guessers is bounded, and one IPv6 network is one guesser.
func TestCredentialsBrakeBounded(t *testing.T) {
	c := credentials(t, "u:right")
	for i := range 50_000 {
		src := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		c.VerifyFrom(t.Context(), src, wire.UserPass{User: fmt.Sprint("user", i%7), Pass: "wrong"})
	}
	if n, _ := auth.Braked(c); n > 8192 {
		t.Errorf("%d guessers are kept", n)
	}
	c = credentials(t, "u:right")
	for range 2 { // HTTP has room for such names
		c.VerifyFrom(t.Context(), alice, wire.UserPass{User: strings.Repeat("x", 10_000), Pass: "wrong"})
	}
	if n, longest := auth.Braked(c); n != 1 || longest > 300 {
		t.Errorf("%d guessers are kept, with %d bytes of a name", n, longest)
	}
	synctest.Test(t, func(t *testing.T) {
		c := credentials(t, "u:right")
		start := time.Now()
		for i := range 11 {
			src := netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i+1))
			c.VerifyFrom(t.Context(), src, wire.UserPass{User: "u", Pass: "wrong"})
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("eleven tries from one network took %v", took)
		}
	})
}
