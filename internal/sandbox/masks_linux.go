package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"netstackd/internal/resolvconf"
)

// masks are what the sandbox lays over the host's files, in its own mount
// namespace: one tmpfs (no file of it exists elsewhere), of which each target
// gets a bind mount.
//
// A mount goes when the host removes or replaces what is under it, as a network
// manager does with resolv.conf (rename(2) over it), so apply is called again
// for every change; see watch_linux.go. For that each target has a spare mount,
// attached to nothing, and gets the next one by cloning the spare in its place.
type masks struct {
	device  uint64 // of the tmpfs
	targets []*target
}

// target is a path, and what is laid over it.
type target struct {
	path  string
	name  string // in the tmpfs
	spare int    // a detached mount
}

// What the tmpfs holds.
const (
	fileConf   = "resolv.conf"
	dirEmpty   = "empty"
	dirResolve = "resolve"
)

// newTargets lists what is masked. Resolvers of the host behind Unix sockets
// would answer for the command from outside the sandbox: nscd, systemd-resolved
// (nss-resolve, by varlink and by D-Bus) and avahi. A directory is hidden as a
// whole, so that a socket made in it later is hidden too. systemd-resolved's holds
// the files that /etc/resolv.conf often links to: ours are put in their place.
func newTargets() []*target {
	return []*target{
		{path: resolvconf.ResolvedDir, name: dirResolve},
		{path: "/run/nscd", name: dirEmpty},
		{path: "/var/run/nscd", name: dirEmpty}, // where /var/run is no link to /run
		{path: "/run/avahi-daemon", name: dirEmpty},
		{path: "/run/dbus", name: dirEmpty},
		{path: "/var/run/dbus", name: dirEmpty},
		{path: resolvconf.Path, name: fileConf},
	}
}

// newMasks makes the tmpfs and lays it over whatever is there. conf is the
// content of resolv.conf. Nothing but the helper runs in the namespace yet.
func newMasks(conf []byte) (*masks, error) {
	if err := detachMounts(); err != nil {
		return nil, fmt.Errorf("make mounts private: %w", err)
	}
	root, err := newTmpfs(conf)
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	// Before Linux 6.15 a part of a mount can only be cloned while the whole
	// is attached somewhere.
	at, err := attach(root)
	if err != nil {
		return nil, err
	}
	defer unix.Unmount(at, unix.MNT_DETACH)
	m := &masks{targets: newTargets()}
	var st unix.Stat_t
	if err := unix.Fstat(root, &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	m.device = st.Dev
	for _, t := range m.targets {
		t.spare, err = unix.OpenTree(root, t.name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return nil, os.NewSyscallError("open_tree", err)
		}
	}
	return m, m.apply()
}

// newTmpfs returns a detached, read-only mount of a new tmpfs.
func newTmpfs(conf []byte) (int, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("fsopen tmpfs", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "mode", "0755"); err != nil {
		return -1, os.NewSyscallError("fsconfig", err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, os.NewSyscallError("fsconfig", err)
	}
	root, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("fsmount", err)
	}
	err = errors.Join(
		makeDir(root, dirEmpty), makeDir(root, dirResolve),
		makeFile(root, fileConf, conf),
		makeFile(root, dirResolve+"/resolv.conf", conf),
		makeFile(root, dirResolve+"/stub-resolv.conf", conf),
		unix.MountSetattr(root, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}))
	if err != nil {
		unix.Close(root)
		return -1, fmt.Errorf("fill tmpfs: %w", err)
	}
	return root, nil
}

// attach mounts root on a directory, whichever there is, and returns that.
func attach(root int) (string, error) {
	var errs error
	for _, dir := range []string{"/tmp", "/run", "/etc", "/usr"} {
		err := unix.MoveMount(root, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH)
		if err == nil {
			return dir, nil
		}
		errs = errors.Join(errs, &os.PathError{Op: "move_mount", Path: dir, Err: err})
	}
	return "", errs
}

// apply masks each target that is there and isn't masked.
func (m *masks) apply() error {
	for _, t := range m.targets {
		if err := m.mask(t); err != nil {
			return &os.PathError{Op: "mount over", Path: t.path, Err: err}
		}
	}
	return nil
}

func (m *masks) mask(t *target) error {
	var st unix.Stat_t
	// A link is followed: what it leads to is what programs read.
	if err := unix.Stat(t.path, &st); err != nil || st.Dev == m.device {
		return nil // an error means that programs don't find it either
	}
	flags := unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_SYMLINKS
	if err := unix.MoveMount(t.spare, "", unix.AT_FDCWD, t.path, flags); err != nil {
		return err
	}
	spare, err := unix.OpenTree(unix.AT_FDCWD, t.path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	unix.Close(t.spare) // it is attached now, and stays so
	t.spare = spare
	return nil
}

// parents are the directories in which targets come and go.
func (m *masks) parents() (dirs []string) {
	seen := make(map[string]bool)
	add := func(dir string) {
		if !seen[dir] {
			seen[dir] = true
			dirs = append(dirs, dir)
		}
	}
	for _, t := range m.targets {
		add(filepath.Dir(t.path))
		if real, err := filepath.EvalSymlinks(t.path); err == nil {
			add(filepath.Dir(real))
		}
	}
	return dirs
}

func makeDir(root int, name string) error {
	if err := unix.Mkdirat(root, name, 0o755); err != nil {
		return &os.PathError{Op: "mkdir", Path: name, Err: err}
	}
	return unix.Fchmodat(root, name, 0o755, 0) // whatever the umask
}

func makeFile(root int, name string, content []byte) error {
	fd, err := unix.Openat(root, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return &os.PathError{Op: "create", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.Write(content)
	return errors.Join(err, f.Chmod(0o644), f.Close())
}
