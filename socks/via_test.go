package socks_test

import (
	"fmt"
	"strings"
	"testing"

	"netstackd/socks"
)

func TestVia(t *testing.T) {
	for _, tc := range []struct{ url, want string }{
		{"socks5://h:1", "socks5://h:1"},
		{"socks5://h", "socks5://h:1080"},
		{"socks5h://u:p%40@[::1]:9/", "socks5://[::1]:9"},
		{"http://u:p@h", "http://h:80"},
		{"socks4a://u@h", "socks4a://h:1080"},
		{"SOCKS5://h:1", "socks5://h:1"},
		{"direct", "direct"},
		{"socks5://u:secret@h:0", ""},
		{"socks5://u:secret@h:70000", ""},
		{"socks5://u:secret@", ""},
		{"socks5://u:secret@h:1/path", ""},
		{"socks4://u:secret@h:1", ""},
		{"socks4a://u:secret@h:1", ""},
		{"socks5://h:1#x", ""},
		{"socks5://u:secret@h:1#x", ""},
		{"socks5://u:sec/ret@h:1", ""},
		{"socks5://u:sec#ret@h:1", ""},
		{"socks5://u:sec?ret@h:1", ""},
		{"socks5://secret:12/34@h:1", ""},
		{"socks5://secret:12?34@h:1", ""},
		{"socks5://secret:12#34@h:1", ""},
		{"socks5://secret:12/34@h:1?x", ""},
		{"secret:x@h:1", ""},
		{"secret://x@h:1", ""},
		{"//u:secret@h:1", ""},
		{"socks5://u:sec%ret@h:1", ""},
		{"u:secret@h:1", ""},
		{"http://u%3Ax:secret@h:1", ""},
		{"socks5://" + strings.Repeat("secret", 50) + "@h:1", ""},
		{"socks5://:secret@a b:1", ""},
	} {
		d, err := socks.Via(local, tc.url)
		switch {
		case tc.want == "":
			if err == nil {
				t.Errorf("%s: taken", tc.url)
			} else if strings.Contains(err.Error(), "sec") || !strings.HasPrefix(err.Error(), "socks: upstream ") {
				t.Errorf("%s: %v", tc.url, err)
			}
		case err != nil:
			t.Errorf("%s: %v", tc.url, err)
		case tc.want == "direct":
			if d != nil {
				t.Errorf("direct is a %T", d)
			}
		case fmt.Sprint(d) != tc.want:
			t.Errorf("%s: %v, want %s", tc.url, d, tc.want)
		}
	}
}

// Each mistake is told by its own cause.
func TestParseUpstreamCause(t *testing.T) {
	for _, tc := range []struct{ url, want string }{
		{"socks5://x:99999", "99999 is not a port"},
		{"socks5://u:p@x:0", "0 is not a port"},
		{"socks5://x:1#y", `what follows "socks5://x:1"`},
		{"socks5://u:p@x:1/y", `what follows "socks5://x:1"`},
		{"socks5://x:1?y", `what follows "socks5://x:1"`},
		{"gopher://x:70", `"gopher://" is not the scheme of a proxy; use socks5://, socks5h://, socks4a:// or http://`},
		{"socks5://u:a#b@x:1", "%23"},
		{"socks5://u:1/b@x:1", "%2F"},
		{"socks4a://u:p@x:1", "SOCKS4a has no password"},
		{"socks5://", "no host"},
		{"socks5://:1080", "no host"},
	} {
		_, err := socks.ParseUpstream(tc.url)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.url, err, tc.want)
		}
	}
}
