package socks_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"netstackd/socks"
	"netstackd/socks/wire"
)

// Who is to blame for a connection that fails: an upstream, which the user can
// mend, or the destination.
func TestFault(t *testing.T) {
	const target = "192.0.2.7:80"
	refuse := dialFunc{local, func(context.Context, string, string) (net.Conn, error) {
		return nil, syscall.ECONNREFUSED
	}}
	auth := credentials(t, "user:secret")
	closed := start(t, refuse, socks.Config{Auth: auth})
	inner := start(t, local, socks.Config{Auth: auth})
	nobody := closedPort(t)
	web := serveTCP(t, "127.0.0.1:0", func(c net.Conn) {
		c.Read(make([]byte, 100))
		io.WriteString(c, "HTTP/1.0 400 Bad Request\r\n\r\n")
	})
	files := serveTCP(t, "127.0.0.1:0", func(c net.Conn) {
		io.WriteString(c, "220 files.example\r\n")
		io.Copy(io.Discard, c)
	})
	for _, tt := range []struct {
		name   string
		via    []string
		server string // "" = no upstream is at fault
		is     error
	}{
		{"wrong password", []string{"socks5://user:typo@" + inner.addr}, "socks5://" + inner.addr, socks.ErrAuth},
		{"wrong HTTP password", []string{"http://user:typo@" + inner.addr}, "http://" + inner.addr, socks.ErrAuth},
		{"no password", []string{"socks5://" + inner.addr}, "socks5://" + inner.addr, socks.ErrMethod},
		{"not SOCKS", []string{"socks5://" + web}, "socks5://" + web, wire.ErrVersion},
		{"not HTTP", []string{"http://" + files}, "http://" + files, wire.ErrVersion},
		{"unreachable", []string{"socks5://user:typo@" + nobody}, "socks5://" + nobody, syscall.ECONNREFUSED},
		{"unreachable HTTP", []string{"http://user:typo@" + nobody}, "http://" + nobody, syscall.ECONNREFUSED},
		{"the first of two", []string{"socks5://user:typo@" + inner.addr, "http://" + nobody}, "socks5://" + inner.addr, socks.ErrAuth},
		{"the second of two", []string{"socks5://user:secret@" + inner.addr, "http://" + nobody}, "http://" + nobody, syscall.ECONNREFUSED},
		{"the second's password", []string{"http://user:secret@" + inner.addr, "socks5://user:typo@" + closed.addr}, "socks5://" + closed.addr, socks.ErrAuth},
		{"the destination", []string{"socks5://user:secret@" + closed.addr}, "", nil},
		{"the destination by HTTP", []string{"http://user:secret@" + closed.addr}, "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := via(t, local, tt.via...).DialContext(t.Context(), "tcp", target)
			server, cause := socks.Fault(err)
			if server != tt.server || !errors.Is(cause, tt.is) || tt.is == nil && cause != nil {
				t.Fatalf("%v: %q is at fault, by %v; want %q, %v", err, server, cause, tt.server, tt.is)
			}
			for _, private := range []string{"user", "typo", "secret", "192.0.2.7"} {
				text := server
				if cause != nil {
					text += strings.ReplaceAll(cause.Error(), "user:password@", "")
				}
				if strings.Contains(text, private) {
					t.Errorf("%q is in %q", private, text)
				}
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := via(t, local, "socks5://"+nobody).DialContext(ctx, "tcp", target)
	if server, cause := socks.Fault(err); cause != nil {
		t.Errorf("%q is at fault, by %v, for a dial that was canceled", server, cause)
	}
	if _, cause := socks.Fault(nil); cause != nil {
		t.Errorf("%v is the fault of a success", cause)
	}
}

// Which upstream of a chain leaves a request without an answer, and how, is known
// from the error, and while the dial waits.
func TestUnanswered(t *testing.T) {
	open := start(t, local, socks.Config{})
	silent := serveTCP(t, "127.0.0.1:0", func(c net.Conn) { io.Copy(io.Discard, c) })
	closes := serveTCP(t, "127.0.0.1:0", func(c net.Conn) {
		c.Read(make([]byte, 512))
		c.Write([]byte{5, 0, 5, 0, 0, 3, 200, 'x'})
	})
	for _, tt := range []struct {
		name   string
		via    []string
		server string
		cause  error
	}{
		{"silent", []string{"socks5://" + silent}, "socks5://" + silent, socks.ErrSilent},
		{"silent, the second", []string{"socks5://" + open.addr, "http://" + silent}, "http://" + silent, socks.ErrSilent},
		{"silent, the first", []string{"socks4a://" + silent, "http://" + open.addr}, "socks4a://" + silent, socks.ErrSilent},
		{"closes", []string{"socks5://" + closes}, "socks5://" + closes, socks.ErrHungUp},
		{"closes, the second", []string{"http://" + open.addr, "socks5://" + closes}, "socks5://" + closes, socks.ErrHungUp},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var p socks.Progress
			ctx, cancel := context.WithTimeout(socks.WithProgress(t.Context(), &p), 300*time.Millisecond)
			defer cancel()
			if server, cause := p.Waits(); cause != nil {
				t.Errorf("it waits for %s before it begins: %v", server, cause)
			}
			_, err := via(t, local, tt.via...).DialContext(ctx, "tcp", "192.0.2.7:80")
			if server, cause := socks.Unanswered(err); server != tt.server || cause != tt.cause {
				t.Errorf("%v: %s, %v; want %s, %v", err, server, cause, tt.server, tt.cause)
			}
			if server, cause := p.Waits(); server != tt.server || cause != socks.ErrSilent {
				t.Errorf("it waited for %s, %v; want %s", server, cause, tt.server)
			}
			if _, cause := socks.Fault(err); cause != nil {
				t.Errorf("%v is at fault whatever the destination", cause)
			}
		})
	}
	_, err := via(t, local, "socks5://"+open.addr).DialContext(t.Context(), "tcp", closedPort(t))
	if server, cause := socks.Unanswered(err); cause != nil {
		t.Errorf("%v: %s, %v", err, server, cause)
	}
}
