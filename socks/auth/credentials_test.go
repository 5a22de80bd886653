package auth_test

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"

	"netstackd/socks/auth"
	"netstackd/socks/wire"
)

func credentials(t testing.TB, entries ...string) *auth.Credentials {
	t.Helper()
	c, err := auth.New(entries, "")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func argon2id(pass string) string {
	salt := []byte("saltsalt")
	raw := base64.RawStdEncoding
	return "$argon2id$v=19$m=64,t=1,p=1$" + raw.EncodeToString(salt) + "$" +
		raw.EncodeToString(argon2.IDKey([]byte(pass), salt, 1, 64, 1, 32))
}

func bcryptHash(t testing.TB, pass string) string {
	t.Helper()
	h, err := bcrypt.GenerateFromPassword([]byte(pass), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(h)
}

func TestCredentials(t *testing.T) {
	long := strings.Repeat("x", 255)
	c := credentials(t, "plain:secret", "empty:", "colon:a:b", "space: a ", "bcrypt:"+bcryptHash(t, "secret"),
		"argon:"+argon2id("secret"), "htpasswd:$2y$"+bcryptHash(t, "secret")[4:], long+":"+long)
	for _, tc := range []struct {
		user, pass string
		ok         bool
	}{
		{"plain", "secret", true}, {"plain", "secret ", false}, {"plain", "", false}, {"plain", "Secret", false},
		{"empty", "", true}, {"empty", "x", false},
		{"colon", "a:b", true}, {"colon", "a", false}, {"space", " a ", true},
		{"bcrypt", "secret", true}, {"bcrypt", "Secret", false}, {"bcrypt", "", false},
		{"argon", "secret", true}, {"argon", "Secret", false},
		{"htpasswd", "secret", true},
		{long, long, true}, {long, long[1:], false},
		{"nobody", "secret", false}, {"nobody", "", false}, {"", "", false}, {"Plain", "secret", false},
	} {
		for range 2 { // the second may come from the cache
			if got := c.Verify(t.Context(), wire.UserPass{User: tc.user, Pass: tc.pass}); got != tc.ok {
				t.Errorf("%.10q with %.10q: %v", tc.user, tc.pass, got)
			}
		}
	}
}

// TestCredentialsTiming checks by what is computed, not by the clock, that
// the time of an answer does not show which users there are.
func TestCredentialsTiming(t *testing.T) {
	c := credentials(t, "plain:secret", "bcrypt:"+bcryptHash(t, "secret"))
	count := auth.CountHashes(c)
	try := func(user, pass string) int {
		before := count()
		c.Verify(t.Context(), wire.UserPass{User: user, Pass: pass})
		return count() - before
	}
	for _, tc := range []struct {
		user, pass string
		hashes     int
	}{
		{"bcrypt", "wrong", 1}, {"bcrypt", "", 1}, {"nobody", "wrong", 1}, {"nobody", "", 1},
		{"nobody", "secret", 1}, {"bcrypt", "secret", 1},
		{"bcrypt", "secret", 0}, // right before: only who knows the password sees this
		{"bcrypt", "wrong", 1}, {"nobody", "wrong", 1},
	} {
		if got := try(tc.user, tc.pass); got != tc.hashes {
			t.Errorf("%s with %q: %d hashes, want %d", tc.user, tc.pass, got, tc.hashes)
		}
	}
}

func TestCredentialsErrors(t *testing.T) {
	for _, entry := range []string{
		"secret", "u:$2b$10$secret", "u:$argon2id$v=19$m=64,t=1,p=1$secret$secret",
		"u:$argon2id$v=18$m=64,t=1,p=1$c2FsdHNhbHQ$c2VjcmV0", "u:$argon2id$v=19$m=64,t=0,p=1$c2FsdHNhbHQ$c2VjcmV0",
		"u:$argon2id$v=19$m=99999999,t=1,p=1$c2FsdHNhbHQ$c2VjcmV0", "u:$argon2id$v=19$m=64,t=1,p=1,secret=1$c2FsdHNhbHQ$c2VjcmV0",
		strings.Repeat("secret", 50) + ":x",
	} {
		_, err := auth.New([]string{"a:b", entry}, "")
		if err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "entry 2") {
			t.Errorf("%.20q: %v", entry, err)
		}
	}
	if _, err := auth.New(nil, ""); err == nil {
		t.Error("an empty list is taken")
	}
	if _, err := auth.New(nil, "/nonexistent/file"); err == nil || !strings.Contains(err.Error(), "/nonexistent/file") {
		t.Errorf("missing file: %v", err)
	}
}

func TestCredentialsFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("# users\r\n\r\nalice:one\r\nbob:" + bcryptHash(t, "two") + "\r\n")
	c, err := auth.New([]string{"carol:three"}, file)
	if err != nil {
		t.Fatal(err)
	}
	check := func(user, pass string, want bool) {
		t.Helper()
		if got := c.Verify(t.Context(), wire.UserPass{User: user, Pass: pass}); got != want {
			t.Errorf("%s with %s: %v", user, pass, got)
		}
	}
	check("alice", "one", true)
	check("bob", "two", true)
	check("carol", "three", true)
	write("alice:changed\n")
	var wg sync.WaitGroup
	for range 4 { // under load
		wg.Go(func() {
			for range 100 {
				c.Verify(t.Context(), wire.UserPass{User: "bob", Pass: "two"})
			}
		})
	}
	if err := c.Reload(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if got, want := c.Changes(), (auth.Change{Users: 2, Removed: 1, Changed: 1}); got != want {
		t.Errorf("changes %+v, want %+v", got, want)
	}
	check("alice", "one", false)
	check("alice", "changed", true)
	check("bob", "two", false) // although it was known
	check("carol", "three", true)
	write("alice:again\nsecret\n")
	if err := c.Reload(); err == nil || !strings.Contains(err.Error(), "line 2") || strings.Contains(err.Error(), "secret") {
		t.Errorf("broken file: %v", err)
	}
	check("alice", "changed", true) // as before
}
