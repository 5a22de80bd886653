package sysctl_test

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"netstackd/internal/sysctl"
)

func TestRead(t *testing.T) {
	want, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := sysctl.Read("kernel/hostname"); err != nil || got != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	if n, err := sysctl.Int("kernel/pid_max"); err != nil || n < 300 {
		t.Errorf("pid_max %d, %v", n, err)
	}
	if _, err := sysctl.Int("kernel/ostype"); err == nil {
		t.Error("a word was read as a number")
	}
	if !sysctl.Exists("net/ipv4") || sysctl.Exists("net/ipv5") {
		t.Error("net/ipv4 is missing, or net/ipv5 exists")
	}
}

// A setting that is missing, as of an interface that was deleted, is not made.
func TestMissing(t *testing.T) {
	const name = "net/ipv4/conf/no-such-link/forwarding"
	_, rerr := sysctl.Read(name)
	_, ierr := sysctl.Int(name)
	for _, err := range []error{rerr, ierr, sysctl.Write(name, "1")} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v, want %v", err, fs.ErrNotExist)
		}
	}
	if sysctl.Writable(name) || sysctl.Writable("kernel/ostype") {
		t.Error("a setting that is missing or read-only is writable")
	}
}
