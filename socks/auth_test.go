package socks_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"netstackd/socks"
	"netstackd/socks/wire"
)

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
