package testbed

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a program that runs, and what it says.
type Process struct {
	cmd   *exec.Cmd
	word  string        // a line with it says that the program is ready
	log   *os.File      // the read end of its output
	ended chan struct{} // closed when it has, and its output is read
	ready chan struct{}

	reading sync.Mutex // held while its output is not to be read
	mu      sync.Mutex
	lines   []string // the last of them, at most keptLines
}

// keptLines is how much of a program's output is kept, in lines.
const keptLines = 10_000

// Start starts a program in a process group of its own. A line of its output
// that contains ready says that it is; "" leaves that to Await.
func Start(cmd *exec.Cmd, ready string) (*Process, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p := &Process{cmd: cmd, word: ready, log: r, ended: make(chan struct{}), ready: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = w, w
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	err = cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		return nil, err
	}
	go p.watch()
	return p, nil
}

// watch reads what it says until it has ended.
func (p *Process) watch() {
	defer close(p.ended)
	defer p.log.Close()
	ready := p.word == ""
	for r := bufio.NewReader(p.log); ; {
		p.reading.Lock()
		//lint:ignore SA2001 it waits for the end of BlockLog
		p.reading.Unlock()
		line, err := r.ReadString('\n')
		p.mu.Lock()
		if len(p.lines) == keptLines {
			p.lines = p.lines[1:]
		}
		p.lines = append(p.lines, strings.TrimSpace(line))
		p.mu.Unlock()
		if !ready && strings.Contains(line, p.word) {
			ready = true
			close(p.ready)
		}
		if err != nil {
			break
		}
	}
	_ = p.cmd.Wait()
}

// BlockLog leaves its output unread until unblock is called.
func (p *Process) BlockLog() (unblock func()) {
	p.reading.Lock()
	return p.reading.Unlock
}

// CloseLog closes the end that its output is read from.
func (p *Process) CloseLog() { _ = p.log.Close() }

// Lines are the last lines that it said.
func (p *Process) Lines() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.lines...)
}

// Output is the end of what it said, on one line.
func (p *Process) Output() string {
	lines := p.Lines()
	return strings.Join(lines[max(0, len(lines)-10):], "; ")
}

// ReadyWithin is how long a program may take to start.
const ReadyWithin = 20 * time.Second

// Await returns when the program is ready: when it says so, or, where it says
// nothing, looks does.
func (p *Process) Await(ctx context.Context, looks func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, ReadyWithin)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-p.ready:
			return nil
		case <-p.ended:
			return errors.New("ended before it was ready")
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w", ctx.Err())
		case <-tick.C:
			if p.word == "" && looks() {
				return nil
			}
		}
	}
}

// Pid is the program's.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Ended is closed when the program has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Status is how it ended: the exit status, or 128+n for a signal. It may be
// called once Ended is closed.
func (p *Process) Status() int {
	status := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// Signal sends its group a signal.
func (p *Process) Signal(sig syscall.Signal) { _ = syscall.Kill(-p.Pid(), sig) }

// Stop ends it, and what it started.
func (p *Process) Stop() {
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(8 * time.Second):
	}
	p.Kill()
}

// Kill ends it at once, and what it started.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.ended
}

// Pids are the processes of its group, itself first.
func (p *Process) Pids() []int {
	pids := []int{p.Pid()}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == pids[0] {
			continue
		}
		if group, err := unix.Getpgid(pid); err == nil && group == pids[0] {
			pids = append(pids, pid)
		}
	}
	return pids
}

// CPU is the processor time that processes have used, in all their threads.
func CPU(pids []int) (sum time.Duration) {
	for _, pid := range pids {
		// A process's own clock: CPUCLOCK_SCHED for another process, as
		// clock_getcpuclockid(3) makes it. One that has ended has none.
		var ts unix.Timespec
		if unix.ClockGettime(int32(^pid)<<3|2, &ts) == nil {
			sum += time.Duration(ts.Nano())
		}
	}
	return sum
}

// Memory is the resident memory of processes that is no file's (proc(5),
// RssAnon), in bytes: the program's own text is left out.
func Memory(pids ...int) (sum int64, err error) {
	for _, pid := range pids {
		f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return 0, err
		}
		text, err := io.ReadAll(f)
		f.Close()
		if err != nil {
			return 0, err
		}
		_, rest, _ := strings.Cut(string(text), "RssAnon:")
		fields := strings.Fields(rest)
		if len(fields) == 0 {
			return 0, fmt.Errorf("no RssAnon for process %d", pid)
		}
		kib, err := strconv.ParseInt(fields[0], 10, 64)
		if err != nil {
			return 0, err
		}
		sum += kib << 10
	}
	return sum, nil
}
