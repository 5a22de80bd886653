package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// The versions that netstackd is compared with.
const (
	tun2socksModule  = "github.com/xjasonlyu/tun2socks/v2"
	tun2socksVersion = "v2.6.0"
	singBoxModule    = "github.com/sagernet/sing-box"
	singBoxVersion   = "v1.14.1"
)

// tools are the programs' files; "" is one that isn't installed.
type tools struct {
	temp                     string
	self                     string // this program, for the pump
	netstackd                string
	tun2socks, singBox       string
	pasta, slirp, microsocks string
	danted                   string
	against                  []string // other builds of netstackd
}

// build builds what there is source of, into dir where it is kept, and finds
// the rest. Go's own cache keeps netstackd.
func build(ctx context.Context, dir string) (*tools, error) {
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("--tools: %w", err)
		}
		dir = filepath.Join(cache, "netstackd-compare")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("--tools: %w", err)
	}
	temp, err := os.MkdirTemp("", "netstackd-compare-")
	if err != nil {
		return nil, err
	}
	t := &tools{temp: temp, netstackd: filepath.Join(temp, "netstackd")}
	if t.self, err = os.Executable(); err == nil {
		err = t.buildAll(ctx, dir)
	}
	if err != nil {
		t.close()
		return nil, err
	}
	for name, file := range map[string]*string{
		"pasta": &t.pasta, "slirp4netns": &t.slirp, "microsocks": &t.microsocks, "danted": &t.danted,
	} {
		if *file = find(name); *file == "" {
			fmt.Fprintf(os.Stderr, "compare: without %s, which is not installed\n", name)
		}
	}
	return t, nil
}

func (t *tools) buildAll(ctx context.Context, dir string) error {
	if err := os.Chmod(t.temp, 0o755); err != nil {
		return err
	}
	if err := command(ctx, ".", nil, "go", "build", "-o", t.netstackd, "netstackd/cmd/netstackd"); err != nil {
		return err
	}
	t.singBox = filepath.Join(dir, "sing-box-"+singBoxVersion)
	if missing(t.singBox) {
		env := []string{"GOBIN=" + t.temp}
		err := command(ctx, t.temp, env, "go", "install", "-tags", "with_gvisor", singBoxModule+"/cmd/sing-box@"+singBoxVersion)
		if err != nil {
			return err
		}
		if err := keep(filepath.Join(t.temp, "sing-box"), t.singBox); err != nil {
			return err
		}
	}
	t.tun2socks = filepath.Join(dir, "tun2socks-"+tun2socksVersion)
	if missing(t.tun2socks) {
		// go install refuses it, for its module has replace directives: a
		// module of ours that requires it does not look at those.
		mod := fmt.Sprintf("module build\n\ngo 1.26\n\nrequire %s %s\n", tun2socksModule, tun2socksVersion)
		if err := os.WriteFile(filepath.Join(t.temp, "go.mod"), []byte(mod), 0o644); err != nil {
			return err
		}
		out := filepath.Join(t.temp, "tun2socks")
		if err := command(ctx, t.temp, []string{"GOFLAGS=-mod=mod"}, "go", "build", "-o", out, tun2socksModule); err != nil {
			return err
		}
		return keep(out, t.tun2socks)
	}
	return nil
}

func (t *tools) close() { os.RemoveAll(t.temp) }

func command(ctx context.Context, dir string, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	fmt.Fprintf(os.Stderr, "compare: %s\n", cmd)
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", cmd, err)
	}
	return nil
}

func missing(file string) bool {
	_, err := os.Stat(file)
	return err != nil
}

// keep moves a file that is complete to where the next run looks for it.
func keep(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	part := to + ".part"
	if err := os.WriteFile(part, text, 0o755); err != nil {
		return err
	}
	return os.Rename(part, to)
}

// find looks where servers are, too, which not everyone has in his PATH.
func find(name string) string {
	if file, err := exec.LookPath(name); err == nil {
		return file
	}
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin"} {
		if file := filepath.Join(dir, name); !missing(file) {
			return file
		}
	}
	return ""
}
