package socks_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"

	"netstackd/socks"
	"netstackd/socks/wire"
)

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
// nobody can learn which users there are.
func TestCredentialsTiming(t *testing.T) {
	c := credentials(t, "plain:secret", "bcrypt:"+bcryptHash(t, "secret"))
	count := socks.CountHashes(c)
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
		_, err := socks.NewCredentials([]string{"a:b", entry}, "")
		if err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "credentials, number 2") {
			t.Errorf("%.20q: %v", entry, err)
		}
	}
	if _, err := socks.NewCredentials(nil, ""); err == nil {
		t.Error("no credentials at all are taken")
	}
	if _, err := socks.NewCredentials(nil, "/nonexistent/file"); err == nil || !strings.Contains(err.Error(), "credentials") {
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
	c, err := socks.NewCredentials([]string{"carol:three"}, file)
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
	if got, want := c.Changes(), (socks.Change{Users: 2, Removed: 1, Changed: 1}); got != want {
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

// TestServerAuth goes through RFC 1929 on the wire.
func TestServerAuth(t *testing.T) {
	target := echo(t)
	var logged lockedBuffer
	creds := credentials(t, "user:passwort", "empty:")
	p := start(t, local, socks.Config{Auth: creds,
		Log: slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	for _, tc := range []struct{ name, open, answer string }{
		{"right", "\x05\x01\x02\x01\x04user\x08passwort" + request5(t, wire.Connect, target), "\x05\x02\x01\x00\x05\x00\x00\x01"},
		{"empty password", "\x05\x02\x00\x02\x01\x05empty\x00" + request5(t, wire.Connect, target), "\x05\x02\x01\x00\x05\x00\x00\x01"},
		{"wrong", "\x05\x01\x02\x01\x04user\x08Passwort", "\x05\x02\x01\x01"},
		{"wrong, pipelined", "\x05\x01\x02\x01\x04user\x08Passwort" + request5(t, wire.Connect, target), "\x05\x02\x01\x01"},
		{"unknown", "\x05\x01\x02\x01\x04nose\x08passwort", "\x05\x02\x01\x01"},
		{"none", "\x05\x01\x00", "\x05\xff"},
		{"none, pipelined", "\x05\x01\x00" + request5(t, wire.Connect, target) + strings.Repeat("x", 5000), "\x05\xff"},
		{"others", "\x05\x03\x01\x03\x80", "\x05\xff"},
		{"no method", "\x05\x00", "\x05\xff"},
		{"SOCKS4", socks4Request(t, target, "user"), "\x00\x5d\x00\x00\x00\x00\x00\x00"},
		{"HTTP", "CONNECT " + target + " HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 407 "},
		{"HTTP GET", "GET http://" + target + "/ HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 407 "},
		{"HTTP wrong", "CONNECT " + target + " HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic eDp5\r\n\r\n", "HTTP/1.1 407 "},
		{"HTTP Digest", "CONNECT " + target + " HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Digest x\r\n\r\n", "HTTP/1.1 407 "},
		{"HTTP garbage", "CONNECT " + target + " HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic !\r\n\r\n", "HTTP/1.1 407 "},
		// 407, and then right on the same connection.
		{"HTTP", "CONNECT " + target + " HTTP/1.1\r\nHost: x\r\n\r\n" + "CONNECT " + target + " HTTP/1.1\r\nHost: x\r\nProxy-Authorization: basic " +
			base64.StdEncoding.EncodeToString([]byte("user:passwort")) + "\r\n\r\n", "HTTP/1.1 407 "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := dial(t, p.addr)
			send(t, c, tc.open)
			want(t, c, tc.answer)
			if strings.HasSuffix(tc.answer, "\x01") && len(tc.answer) > 4 {
				want(t, c, "\x7f\x00\x00\x01")
			} else if !strings.HasPrefix(tc.answer, "HTTP") {
				wantEOF(t, c)
			}
		})
	}
	text := logged.String() + fmt.Sprintf("%v %+v %#v %v", creds, creds, creds, wire.UserPass{User: "user", Pass: "passwort"})
	for _, secret := range []string{"passwort", "Passwort", "user:", base64.StdEncoding.EncodeToString([]byte("user:passwort"))} {
		if strings.Contains(text, secret) {
			t.Errorf("%q was printed", secret)
		}
	}
}

// TestServerAuthUser finds the user with the flow.
func TestServerAuthUser(t *testing.T) {
	target := echo(t)
	p := start(t, local, socks.Config{Auth: credentials(t, "user:pass")})
	for _, scheme := range []string{"socks5", "http"} {
		c, err := via(t, local, scheme+"://user:pass@"+p.addr).DialContext(t.Context(), "tcp", target)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range p.flows.Flows() {
			if f.Meta.User != "user" || f.Meta.Source.String() != c.LocalAddr().String() || f.Meta.Dest.String() != target {
				t.Errorf("flow %+v", f.Meta)
			}
		}
		c.Close()
		eventually(t, "the flow ends", func() bool { return p.flows.Len() == 0 })
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
