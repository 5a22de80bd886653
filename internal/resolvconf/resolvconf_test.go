package resolvconf_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"netstackd/internal/resolvconf"
)

const text = `# nameserver 9.9.9.9
; a comment
search a.example   b.example
 nameserver	192.0.2.53 # the first
nameserver 2001:db8::53
nameserver fe80::1%eth0
nameserver x
nameserver
options edns0 trust-ad
search`

const want = "{[192.0.2.53 2001:db8::53 fe80::1%eth0] [search a.example b.example options edns0 trust-ad]}"

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if c, err := resolvconf.Read(path); !errors.Is(err, fs.ErrNotExist) || c.Nameservers != nil {
		t.Errorf("no file: %v, %v", c, err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := resolvconf.Read(path); err != nil || fmt.Sprint(c) != want {
		t.Errorf("got %v, %v; want %s", c, err, want)
	}
}
