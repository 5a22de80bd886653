package sandbox

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// protectSettings makes the kernel's settings read-only for a command that is
// root, but for those of its own network namespace. Their files belong to the
// host's root, which it is in a user namespace too: a sysctl(8) inside would
// change the whole host. It is no bar to a command that means to: root may
// unmount what is mounted here.
func protectSettings() error {
	const own = "/proc/sys/net" // shows the settings of the reader's network namespace
	network, err := cloneMount(own)
	if err != nil {
		return err
	}
	defer unix.Close(network)
	for _, path := range []string{"/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs"} {
		if err := coverReadOnly(path); err != nil {
			return err
		}
	}
	if err := attachTo(network, own); err != nil {
		return err
	}
	// All mounts below as well, such as cgroups. It is a mount where it exists.
	err = unix.MountSetattr(unix.AT_FDCWD, "/sys", unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return &os.PathError{Op: "mount_setattr", Path: "/sys", Err: err}
	}
	return nil
}

// coverReadOnly mounts path, with all mounts below, over itself, read-only. A
// path that doesn't exist is passed over.
func coverReadOnly(path string) error {
	tree, err := cloneMount(path)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	if err != nil {
		return &os.PathError{Op: "mount_setattr", Path: path, Err: err}
	}
	return attachTo(tree, path)
}

// cloneMount returns a detached copy of path with all mounts below.
func cloneMount(path string) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return -1, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	return fd, nil
}

func attachTo(tree int, path string) error {
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: path, Err: err}
	}
	return nil
}
