//go:build linux

package testnet

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// Binary is the netstackd program, built when the first test asks for it and
// once for all of them. The zero value is ready; TestMain calls Remove.
type Binary struct {
	once sync.Once
	dir  string
	err  error
}

// Path builds the program where that has not been done and returns its file.
// Tests under the race detector get a program that is, too.
func (b *Binary) Path(t testing.TB) string {
	t.Helper()
	b.once.Do(func() { b.dir, b.err = build() })
	if b.err != nil {
		t.Fatal(b.err)
	}
	return filepath.Join(b.dir, "netstackd")
}

func build() (string, error) {
	dir, err := os.MkdirTemp("", "netstackd-test-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // other users run it, too
		return dir, err
	}
	args := []string{"build", "-o", filepath.Join(dir, "netstackd")}
	if Race {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, "netstackd/cmd/netstackd")...).CombinedOutput(); err != nil {
		return dir, fmt.Errorf("testnet: go build: %w\n%s", err, out)
	}
	return dir, nil
}

// Remove deletes the program.
func (b *Binary) Remove() { os.RemoveAll(b.dir) }
