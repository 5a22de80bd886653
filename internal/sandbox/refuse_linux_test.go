package sandbox_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"netstackd/internal/sandbox"

	"golang.org/x/sys/unix"
)

// inUserNamespace has a program run as root of a user namespace of its own, or as
// an ordinary user there, in which a setting of user_namespaces(7) was changed first.
func inUserNamespace(cmd *exec.Cmd, uid, setting, value string) *exec.Cmd {
	const script = `echo "$3" > "/proc/sys/user/$2" &&
		exec setpriv --reuid "$1" --regid "$1" --clear-groups bash -c 'exec -a "$0" "$@"' "${@:4}"`
	again := exec.Command("bash", append([]string{"-c", script, "bash", uid, setting, value,
		cmd.Args[0], cmd.Path}, cmd.Args[1:]...)...)
	again.Env = cmd.Env
	again.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:                 unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWNET,
		UidMappings:                []syscall.SysProcIDMap{{Size: 1 << 16}},
		GidMappings:                []syscall.SysProcIDMap{{Size: 1 << 16}},
		GidMappingsEnableSetgroups: true,
	}
	return again
}

// Whatever can't be had, the command doesn't run, and one line says what to do.
func TestIntegrationFailsClosed(t *testing.T) {
	for _, tc := range []struct {
		name string
		cmd  func(t *testing.T, marker string) *exec.Cmd
		err  []string
	}{
		{"no device node", func(t *testing.T, marker string) *exec.Cmd {
			return asUser(t, "none", "touch", marker)
		}, []string{"/dev/net/tun", "modprobe tun", "--device /dev/net/tun"}},
		{"device node for root alone", func(t *testing.T, marker string) *exec.Cmd {
			return asUser(t, "600", "touch", marker)
		}, []string{"/dev/net/tun", "permission denied", "chmod 0666 /dev/net/tun"}},
		{"a container's seccomp filter", func(t *testing.T, marker string) *exec.Cmd {
			return contained(asUser(t, open, "touch", marker))
		}, []string{"seccomp=unconfined"}},
		{"nobody serves the TUN", func(t *testing.T, marker string) *exec.Cmd {
			return asUser(t, open, "-deaf", "touch", marker)
		}, []string{"not started", "would not go through the TUN"}},
		{"no user namespaces", func(t *testing.T, marker string) *exec.Cmd {
			return inUserNamespace(asRoot(t, "touch", marker), "54321", "max_user_namespaces", "0")
		}, []string{"sysctl -w user.max_user_namespaces"}},
		{"no network namespaces", func(t *testing.T, marker string) *exec.Cmd {
			return inUserNamespace(asRoot(t, "touch", marker), "0", "max_net_namespaces", "0")
		}, []string{"sysctl -w user.max_net_namespaces"}},
		{"no mount namespaces", func(t *testing.T, marker string) *exec.Cmd {
			return inUserNamespace(asRoot(t, "touch", marker), "0", "max_mnt_namespaces", "0")
		}, []string{"sysctl -w user.max_mnt_namespaces"}},
		{"user and network namespaces used up", func(t *testing.T, marker string) *exec.Cmd {
			return inUserNamespace(asRoot(t, "touch", marker), "0", "max_net_namespaces", "1")
		}, []string{"limit on namespaces is reached"}},
	} {
		t.Run(name(tc.name), func(t *testing.T) {
			t.Parallel()
			marker := filepath.Join(sharedDir(t), "marker")
			r := run(t, tc.cmd(t, marker))
			if r.status != sandbox.StatusFailed || strings.Count(r.err, "\n") != 1 {
				t.Errorf("status %d, stderr %q; want 125 and one line", r.status, r.err)
			}
			for _, part := range tc.err {
				if !strings.Contains(r.err, part) {
					t.Errorf("stderr %q lacks %q", r.err, part)
				}
			}
			if _, err := os.Stat(marker); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the command ran: %v", err)
			}
		})
	}
}

// Root does without a user namespace where there is none to have.
func TestIntegrationRootFallsBack(t *testing.T) {
	want(t, inUserNamespace(asRoot(t, "echo", "ran"), "0", "max_user_namespaces", "0"), "ran\n")
}

// Failures that this machine can't be made to show.
func TestExplain(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s + "\n")} }
	const (
		appArmor = "sys/kernel/apparmor_restrict_unprivileged_userns"
		debian   = "sys/kernel/unprivileged_userns_clone"
	)
	for _, tc := range []struct {
		name  string
		stage func(error, fs.FS) error
		err   error
		proc  fstest.MapFS
		want  string
	}{
		{"AppArmor", sandbox.ExplainClone, unix.EACCES, fstest.MapFS{appArmor: file("1")}, "kernel.apparmor_restrict_unprivileged_userns=0"},
		{"AppArmor inside", sandbox.ExplainInside, unix.EPERM, fstest.MapFS{appArmor: file("1")}, "kernel.apparmor_restrict_unprivileged_userns=0"},
		{"AppArmor and the TUN", sandbox.ExplainTUN, unix.EPERM, fstest.MapFS{appArmor: file("1")}, "kernel.apparmor_restrict_unprivileged_userns=0"},
		{"AppArmor and mounts", sandbox.ExplainMount, unix.EACCES, fstest.MapFS{appArmor: file("1")}, "kernel.apparmor_restrict_unprivileged_userns=0"},
		{"Debian's switch", sandbox.ExplainClone, unix.EPERM, fstest.MapFS{debian: file("0"), appArmor: file("1")}, "kernel.unprivileged_userns_clone=1"},
		{"a container", sandbox.ExplainClone, unix.EPERM, fstest.MapFS{"self/status": file("Name:\tx\nSeccomp:\t2")}, "seccomp=unconfined"},
		{"a container, inside", sandbox.ExplainInside, unix.EPERM, fstest.MapFS{"self/status": file("Name:\tx\nSeccomp:\t2")}, "seccomp=unconfined"},
		{"a chroot", sandbox.ExplainClone, unix.EPERM, fstest.MapFS{debian: file("1"), appArmor: file("0")}, "chroot"},
		{"a chroot without /proc", sandbox.ExplainClone, unix.ENOENT, fstest.MapFS{}, "mount -t proc"},
		{"no such kernel", sandbox.ExplainClone, unix.EINVAL, fstest.MapFS{}, "CONFIG_USER_NS"},
		{"limit 0", sandbox.ExplainClone, unix.ENOSPC, fstest.MapFS{"sys/user/max_user_namespaces": file("0")}, "user.max_user_namespaces"},
		{"limit of an outer namespace", sandbox.ExplainClone, unix.ENOSPC, fstest.MapFS{"sys/user/max_user_namespaces": file("7")}, "the namespaces around"},
		{"nested too deep", sandbox.ExplainClone, unix.EUSERS, fstest.MapFS{}, "limit"},
		{"no driver", sandbox.ExplainTUN, unix.ENODEV, fstest.MapFS{}, "modprobe tun"},
		{"mounts forbidden", sandbox.ExplainMount, unix.EACCES, fstest.MapFS{}, "apparmor=unconfined"},
		{"old kernel", sandbox.ExplainMount, unix.ENOSYS, fstest.MapFS{}, "Linux 5.2"},
	} {
		t.Run(name(tc.name), func(t *testing.T) {
			got := tc.stage(tc.err, tc.proc)
			if !errors.Is(got, tc.err) || !strings.Contains(got.Error(), tc.want) || strings.Contains(got.Error(), "\n") {
				t.Errorf("%q, want one line with %q", got, tc.want)
			}
		})
	}
}
