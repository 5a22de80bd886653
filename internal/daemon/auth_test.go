package daemon

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"netstackd/internal/config"
)

func TestAuthFileOthersCanRead(t *testing.T) {
	for mode, warns := range map[os.FileMode]bool{0o600: false, 0o640: false, 0o644: true, 0o604: true, 0o602: true} {
		file := authFile(t, "ann:hunter2\n")
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, nil))
		if _, err := credentials(config.Config{AuthFile: file}, log); err != nil {
			t.Fatal(err)
		}
		warned := strings.Contains(out.String(), "level=WARN") && strings.Contains(out.String(), "chmod 600 "+file)
		if warned != warns || strings.Contains(out.String(), "hunter2") {
			t.Errorf("mode %o: %q", mode, out.String())
		}
	}
}

// Each SIGHUP is answered by one line.
func TestRereadSaysWhatChanged(t *testing.T) {
	file := authFile(t, "ann:one\nbob:two\n")
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	auth, err := credentials(config.Config{AuthFile: file}, log)
	if err != nil {
		t.Fatal(err)
	}
	says := func(want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(out.String(), w) {
				t.Errorf("lacks %q: %s", w, &out)
			}
		}
		if strings.Count(out.String(), "\n") != 1 {
			t.Errorf("not one line: %s", &out)
		}
		out.Reset()
	}
	reread(auth, file, log)
	says("no user has changed", "users=2")
	if err := os.WriteFile(file, []byte("# a comment\nann:other\ncarol:three\ndave:four\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	reread(auth, file, log)
	says("read again", "users=3", "added=2", "changed=1", "removed=1")
	if err := os.WriteFile(file, []byte("nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	reread(auth, file, log)
	says("level=ERROR", "old entries hold", "line 1")
	reread(nil, "", log)
	says("nothing to read again", "--auth-file", "restart")
	auth, err = credentials(config.Config{Auth: []config.Credential{{User: "ann", Password: "one"}}}, log)
	if err != nil {
		t.Fatal(err)
	}
	reread(auth, "", log)
	says("nothing to read again")
}

func authFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
