package bench

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"netstackd/bench/testbed"
)

// process is a Program that runs.
type process struct {
	Program
	*testbed.Process
}

// startProgram starts p with open files, from 3 on, and waits until it is ready.
func startProgram(ctx context.Context, p Program, dir string, files []*os.File) (*process, error) {
	for name, text := range p.Files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, fmt.Errorf("%s: %w", p.Name, err)
		}
	}
	cmd := exec.Command(p.Command[0], p.Command[1:]...)
	cmd.Dir = dir
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	running, err := testbed.Start(cmd, p.Ready)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.Name, err)
	}
	q := &process{Program: p, Process: running}
	if err := q.Await(ctx, q.looksReady); err != nil {
		q.Stop()
		return nil, fmt.Errorf("%s: %w: %s", p.Name, err, q.Output())
	}
	if len(p.Up) > 0 {
		if err := testbed.IP(strings.Join(p.Up, "\n")); err != nil {
			q.Stop()
			return nil, fmt.Errorf("%s: %w", p.Name, err)
		}
	}
	return q, nil
}

// looksReady is for programs that don't say: interface and listener are there.
func (q *process) looksReady() bool {
	if q.TUN != "" {
		if _, err := net.InterfaceByName(q.TUN); err != nil {
			return false
		}
	}
	if q.Listen == "" {
		return true
	}
	c, err := net.DialTimeout("tcp", q.Listen, time.Second)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}
