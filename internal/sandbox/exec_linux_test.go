package sandbox_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// open is /dev/net/tun as distributions have it.
const open tunMode = "666"

func TestIntegrationExitStatus(t *testing.T) {
	dir := sharedDir(t)
	script := filepath.Join(dir, "script")
	for name, content := range map[string]string{
		"script":         "exit 4\n",            // for /bin/sh, as execvp(3) has it
		"no-interpreter": "#!/no/such/thing\n",  // execve says ENOENT
		"garbage":        "\x7fELF and no more", // execve says ENOEXEC, and the shell gives up
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "data"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		args   []string
		status int
		err    string // part of standard error
	}{
		{"success", []string{"true"}, 0, ""},
		{"failure", []string{"false"}, 1, ""},
		{"status", []string{"sh", "-c", "exit 42"}, 42, ""},
		{"125 is the command's too", []string{"sh", "-c", "exit 125"}, 125, ""},
		{"signal", []string{"sh", "-c", "kill -TERM $$"}, 128 + 15, ""},
		{"kill", []string{"sh", "-c", "kill -KILL $$"}, 128 + 9, ""},
		{"not in PATH", []string{"no-such-command"}, 127, `"no-such-command": no such file`},
		{"not there", []string{"./no-such-command"}, 127, "no such file"},
		{"no interpreter", []string{filepath.Join(dir, "no-interpreter")}, 127, "no such file"},
		{"not executable", []string{filepath.Join(dir, "data")}, 126, "permission denied"},
		{"a directory", []string{dir}, 126, "permission denied"},
		{"script without #!", []string{script}, 4, ""},
		{"no directory", []string{"-dir", "/no/such/dir", "true"}, 125, "chdir /no/such/dir: no such file"},
		{"no command", nil, 125, "no command to run"},
	} {
		t.Run(name(tc.name), func(t *testing.T) {
			t.Parallel()
			r := run(t, asUser(t, open, tc.args...))
			if r.status != tc.status || !strings.Contains(r.err, tc.err) || strings.Count(r.err, "\n") > 1 {
				t.Errorf("status %d, want %d; stderr %q, want one line with %q", r.status, tc.status, r.err, tc.err)
			}
			if tc.err == "" && r.err != "" {
				t.Errorf("stderr %q, want none", r.err)
			}
		})
	}
}

func name(s string) string { return strings.ReplaceAll(s, " ", "-") }
