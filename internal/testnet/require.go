//go:build linux

package testnet

import (
	"os"
	"os/exec"
	"testing"
)

// RequireRoot skips the test where namespaces and TUN devices can't be made,
// and fails it instead where NETSTACKD_INTEGRATION=1.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		unable(t, "needs root: run the tests as root")
	}
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		unable(t, "needs /dev/net/tun: modprobe tun, or give the container the device: "+err.Error())
	}
	f.Close()
	RequireTool(t, "ip")
}

// RequireTool skips the test where a program is not installed, and fails it
// instead where NETSTACKD_INTEGRATION=1. Debian's package for each is in
// .ci/install, which installs them all.
func RequireTool(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			unable(t, "needs "+name+": .ci/install installs it")
		}
	}
}

func unable(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("NETSTACKD_INTEGRATION") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}
