package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a Program that runs.
type process struct {
	Program
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has, and its output is read

	mu    sync.Mutex
	said  []string // the last lines
	ready chan struct{}
}

// readyWithin is how long a program may take to start.
const readyWithin = 20 * time.Second

// startProgram starts p with open files, from 3 on, and waits until it is ready.
func startProgram(ctx context.Context, p Program, dir string, files []*os.File) (*process, error) {
	for name, text := range p.Files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, fmt.Errorf("%s: %w", p.Name, err)
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.Name, err)
	}
	q := &process{Program: p, ended: make(chan struct{}), ready: make(chan struct{})}
	q.cmd = exec.Command(p.Command[0], p.Command[1:]...)
	q.cmd.Dir = dir
	q.cmd.Stdout, q.cmd.Stderr = w, w
	q.cmd.ExtraFiles = files
	q.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	err = q.cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("%s: %w", p.Name, err)
	}
	go q.watch(r)
	if err := q.await(ctx); err != nil {
		q.stop()
		return nil, fmt.Errorf("%s: %w: %s", p.Name, err, q.output())
	}
	if len(p.Up) > 0 {
		if err := ip(strings.Join(p.Up, "\n")); err != nil {
			q.stop()
			return nil, fmt.Errorf("%s: %w", p.Name, err)
		}
	}
	return q, nil
}

// watch reads what it says until it has ended.
func (q *process) watch(r *os.File) {
	defer close(q.ended)
	defer r.Close()
	ready := q.Ready == ""
	for lines := bufio.NewReader(r); ; {
		line, err := lines.ReadString('\n')
		q.mu.Lock()
		q.said = append(q.said[max(0, len(q.said)-9):], strings.TrimSpace(line))
		q.mu.Unlock()
		if !ready && strings.Contains(line, q.Ready) {
			ready = true
			close(q.ready)
		}
		if err != nil {
			break
		}
	}
	_ = q.cmd.Wait()
}

func (q *process) output() string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return strings.Join(q.said, "; ")
}

// await returns when it is ready: when it says so, or its interface and its
// listener are there.
func (q *process) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-q.ready:
			return nil
		case <-q.ended:
			return errors.New("ended before it was ready")
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w", ctx.Err())
		case <-tick.C:
			if q.Ready == "" && q.looksReady() {
				return nil
			}
		}
	}
}

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

// stop ends it, and what it started.
func (q *process) stop() {
	group := -q.cmd.Process.Pid
	_ = syscall.Kill(group, syscall.SIGTERM)
	select {
	case <-q.ended:
	case <-time.After(8 * time.Second):
	}
	_ = syscall.Kill(group, syscall.SIGKILL)
	<-q.ended
}

// pids are the processes of its group, itself first.
func (q *process) pids() []int {
	pids := []int{q.cmd.Process.Pid}
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

// cpu is the processor time that processes have used, in all their threads.
func cpu(pids []int) (sum time.Duration) {
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

// memory is the resident memory of processes that is no file's (proc(5),
// RssAnon), in bytes: what a program's own text takes is not a flow's.
func memory(pids []int) (sum int64, err error) {
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
