//go:build linux

package testnet

import (
	"bufio"
	"context"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Daemon is a running netstackd.
type Daemon struct {
	t    testing.TB
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended and stderr is read

	mu     sync.Mutex
	stderr strings.Builder
	ready  chan struct{}
}

// Start runs the program on the host and waits until it says that it is
// ready. It is killed when the test ends and has not stopped it.
func (h *Host) Start(t testing.TB, program string, args ...string) *Daemon {
	t.Helper()
	return StartCommand(t, h.Command(context.Background(), program, args...))
}

// StartCommand is Start for a command that the test has made itself.
func StartCommand(t testing.TB, cmd *exec.Cmd) *Daemon {
	t.Helper()
	d := Launch(t, cmd)
	select {
	case <-d.ready:
	case <-d.done:
		t.Fatalf("netstackd ended before it was ready: %v\n%s", cmd.ProcessState, d.Stderr())
	case <-time.After(20 * time.Second):
		t.Fatalf("netstackd is not ready after 20s\n%s", d.Stderr())
	}
	return d
}

// Launch starts the command without waiting for it to be ready.
func Launch(t testing.TB, cmd *exec.Cmd) *Daemon {
	t.Helper()
	d := &Daemon{t: t, cmd: cmd, done: make(chan struct{}), ready: make(chan struct{})}
	pipe, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(d.done)
		d.read(bufio.NewScanner(pipe))
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		select {
		case <-d.done:
		default:
			KillTree(cmd.Process.Pid)
			<-d.done
		}
		if t.Failed() {
			t.Logf("netstackd said:\n%s", d.Stderr())
		}
		if Race && strings.Contains(d.Stderr(), "DATA RACE") {
			t.Errorf("netstackd has a data race")
		}
	})
	return d
}

func (d *Daemon) read(lines *bufio.Scanner) {
	ready := false
	for lines.Scan() {
		d.mu.Lock()
		d.stderr.WriteString(lines.Text() + "\n")
		d.mu.Unlock()
		if !ready && strings.Contains(lines.Text(), "ready") {
			ready = true
			close(d.ready)
		}
	}
}

// Stderr is what it has said so far.
func (d *Daemon) Stderr() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stderr.String()
}

// Pid is the process's.
func (d *Daemon) Pid() int { return d.cmd.Process.Pid }

// Signal sends it a signal.
func (d *Daemon) Signal(sig syscall.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(sig); err != nil {
		d.t.Fatalf("signal %v: %v", sig, err)
	}
}

// Wait waits for it to end and returns its exit status, 128+n for a signal.
func (d *Daemon) Wait(within time.Duration) int {
	d.t.Helper()
	select {
	case <-d.done:
	case <-time.After(within):
		_ = d.cmd.Process.Signal(syscall.SIGQUIT) // all goroutines to stderr
		<-d.done
		d.t.Fatalf("netstackd has not ended within %v", within)
	}
	status := d.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// Stop sends SIGTERM and checks that it exits with status 0.
func (d *Daemon) Stop() {
	d.t.Helper()
	d.Signal(syscall.SIGTERM)
	if status := d.Wait(15 * time.Second); status != 0 {
		d.t.Fatalf("netstackd exited with status %d after SIGTERM\n%s", status, d.Stderr())
	}
}

// Ready is closed when it has said that it is ready.
func (d *Daemon) Ready() <-chan struct{} { return d.ready }

// Done is closed when the process has ended.
func (d *Daemon) Done() <-chan struct{} { return d.done }
