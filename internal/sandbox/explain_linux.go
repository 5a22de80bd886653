package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A mend is appended to an error as "error: mend".
const (
	mendAppArmor = "AppArmor forbids user namespaces to ordinary programs: allow them with " +
		"`sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or give netstackd a profile with `userns,`"
	mendClone = "user namespaces are for root only here: allow them with " +
		"`sudo sysctl -w kernel.unprivileged_userns_clone=1`"
	mendSeccomp = "a seccomp filter, as containers have, forbids namespaces: " +
		"start the container with `--security-opt seccomp=unconfined` and `--device /dev/net/tun`"
	mendChroot = "the kernel forbids user namespaces here, as it does in a chroot: " +
		"run netstackd outside of it, or as root"
	mendNoUserNS = "this kernel has no user namespaces (CONFIG_USER_NS): run as root, or another kernel"
	mendMount    = "a security policy forbids mounts in a user namespace: in a container, " +
		"start it with `--security-opt apparmor=unconfined`"
	mendNoProc    = "mount /proc: `sudo mount -t proc proc /proc`"
	mendTUNNode   = "load the driver with `sudo modprobe tun`; in a container, start it with `--device /dev/net/tun`; in a chroot, bind the host's /dev"
	mendTUNAccess = "let everyone use it, which gives no power over the host's network: `sudo chmod 0666 /dev/net/tun`"
)

// explainClone says why the namespaces couldn't be made. proc is /proc.
func explainClone(err error, proc fs.FS) error {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EUSERS):
		return fmt.Errorf("make namespaces: %w: %s", err, mendLimit(proc))
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("make namespaces: %w: %s", err, mendForbidden(proc))
	case errors.Is(err, unix.EINVAL):
		if _, none := fs.Stat(proc, "self/ns/user"); none != nil {
			return fmt.Errorf("make namespaces: %w: %s", err, mendNoUserNS)
		}
	case errors.Is(err, unix.ENOENT): // of /proc/self/exe
		return fmt.Errorf("make namespaces: %w: %s", err, mendNoProc)
	}
	return fmt.Errorf("make namespaces: %w", err)
}

// mendLimit finds the limit that is reached (namespaces(7)).
func mendLimit(proc fs.FS) string {
	for _, kind := range []string{"user", "net", "mnt"} {
		name := "max_" + kind + "_namespaces"
		if setting(proc, "sys/user/"+name) == "0" {
			return fmt.Sprintf("the limit is 0: raise it with `sudo sysctl -w user.%s=10000`", name)
		}
	}
	return "a limit on namespaces is reached: raise user.max_user_namespaces, user.max_net_namespaces " +
		"or user.max_mnt_namespaces with `sudo sysctl -w`, also in the namespaces around this one"
}

// mendForbidden finds who says no.
func mendForbidden(proc fs.FS) string {
	switch {
	case setting(proc, "sys/kernel/unprivileged_userns_clone") == "0":
		return mendClone
	case setting(proc, "sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
		return mendAppArmor
	case seccompFiltered(proc):
		return mendSeccomp
	}
	return mendChroot
}

// explainTUN says why the TUN couldn't be opened. proc is /proc.
func explainTUN(err error, proc fs.FS) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("%w: %s", err, mendTUNNode)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: %s", err, mendTUNAccess)
	}
	return explainInside(err, proc)
}

// explainMount says why something couldn't be mounted.
func explainMount(err error, proc fs.FS) error {
	explained := explainInside(err, proc)
	if explained == err && errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%w: %s", err, mendMount)
	}
	return explained
}

// explainInside explains an error of the helper. Under AppArmor's restriction
// a user namespace can be made, but nothing can be done in it.
func explainInside(err error, proc fs.FS) error {
	switch {
	case errors.Is(err, os.ErrPermission) && setting(proc, "sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
		return fmt.Errorf("%w: %s", err, mendAppArmor)
	case errors.Is(err, os.ErrPermission) && seccompFiltered(proc), errors.Is(err, unix.ENOSYS) && seccompFiltered(proc):
		return fmt.Errorf("%w: %s", err, mendSeccomp)
	case errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("%w: this needs Linux 5.2 or later", err)
	}
	return err
}

// setting reads a one-line file; "" if it isn't there.
func setting(proc fs.FS, path string) string {
	b, _ := fs.ReadFile(proc, path)
	return strings.TrimSpace(string(b))
}

func seccompFiltered(proc fs.FS) bool {
	b, _ := fs.ReadFile(proc, "self/status")
	return strings.Contains(string(b), "\nSeccomp:\t2\n")
}

// remoteError is the error that a message of the helper tells of.
func remoteError(m message) error {
	if m.Errno != 0 {
		return &remote{m.Text, unix.Errno(m.Errno)}
	}
	return errors.New(m.Text)
}

// remote is an error of the helper with its errno.
type remote struct {
	text  string
	errno unix.Errno
}

func (r *remote) Error() string { return r.text }
func (r *remote) Unwrap() error { return r.errno }

// asError wraps err, unless it is an *Error, as one with StatusFailed.
func asError(err error) error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{StatusFailed, err}
}
