package bench

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Run measures what cfg says. It needs root, or a kernel that lets others make
// user namespaces, and /dev/net/tun. The calling program must hand over to Main
// where IsHelper says so. Nothing is left behind when it returns, whatever the
// end. A path that could not be measured, or that was not the one it should have
// been, is an error in the report and none of Run.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Programs == nil {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("bench: %w", err)
		}
		cfg.Programs = []Program{Netstackd(self)}
	}
	dir, err := os.MkdirTemp("", "netstackd-bench-")
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	defer os.RemoveAll(dir)
	// Programs may drop to another user, who reads his files there.
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	report, err := runInLab(ctx, cfg, dir)
	if err != nil {
		return report, fmt.Errorf("bench: %w", err)
	}
	return report, nil
}

func runInLab(ctx context.Context, cfg Config, dir string) (*Report, error) {
	// The lab ends in order when its connection does, so ctx closes only that.
	cmd, conn, err := startHelper(context.WithoutCancel(ctx), roleLab, labAttr())
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EACCES) {
		return nil, fmt.Errorf("make namespaces: %w: run it as root, or allow user namespaces (netstackd doctor says how)", err)
	}
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer func() {
		conn.Close()
		kill := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		kill.Stop()
	}()
	progress := cfg.Progress
	if err := gob.NewEncoder(conn).Encode(order{Config: cfg, Dir: dir}); err != nil {
		return nil, err
	}
	for dec := gob.NewDecoder(conn); ; {
		var m message
		if err := dec.Decode(&m); err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return nil, fmt.Errorf("the lab ended: %w", err)
		}
		switch {
		case m.Error != "":
			return m.Report, errors.New(m.Error)
		case m.Report != nil:
			return m.Report, nil
		case m.Progress != nil && progress != nil:
			progress(*m.Progress)
		}
	}
}

// labAttr asks for a network namespace, and for who isn't root for a user
// namespace that owns it, in which he is.
func labAttr() *syscall.SysProcAttr {
	if os.Geteuid() == 0 {
		return &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	}
	return &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWNET | unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
}
