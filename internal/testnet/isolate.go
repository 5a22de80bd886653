//go:build linux

package testnet

import (
	"os"
	"os/exec"
	"regexp"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// againEnv is set in the child process that a test runs in.
const againEnv = "TESTNET_AGAIN"

// Again runs the calling test in a child process with attr, and returns true in
// that child. In the parent it reports the child's result and returns false: the
// test is over. It needs root.
func Again(t *testing.T, attr *syscall.SysProcAttr) bool {
	t.Helper()
	if os.Getenv(againEnv) != "" {
		return true
	}
	RequireRoot(t)
	args := []string{"-test.run=^" + regexp.QuoteMeta(t.Name()) + "$", "-test.timeout=60s"}
	if testing.Verbose() {
		args = append(args, "-test.v")
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), againEnv+"=1")
	attr.Pdeathsig = syscall.SIGKILL
	cmd.SysProcAttr = attr
	if attr.Credential != nil {
		cmd.Dir = "/" // a user may not enter the checkout
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if testing.Verbose() {
		t.Logf("%s", out)
	}
	return false
}

// Isolate is Again with network, mount and process namespaces of the test's own.
func Isolate(t *testing.T) bool {
	t.Helper()
	if !Again(t, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID}) {
		return false
	}
	ownMounts(t)
	return true
}

// ownMounts keeps what the test mounts in its own namespace, and shows its own
// processes in /proc.
func ownMounts(t *testing.T) {
	t.Helper()
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		t.Fatal(err)
	}
}
