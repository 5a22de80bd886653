package sandbox_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"netstackd/internal/testnet"

	"golang.org/x/sys/unix"
)

// started is a program whose standard output is read line by line.
type started struct {
	*exec.Cmd
	out *bufio.Reader
	in  io.WriteCloser
}

func start(t testing.TB, cmd *exec.Cmd) *started {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	out.(*os.File).SetReadDeadline(time.Now().Add(time.Minute))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if cmd.Stderr == nil {
		cmd.Stderr = os.Stderr
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			testnet.KillTree(cmd.Process.Pid)
			cmd.Wait()
		}
	})
	return &started{cmd, bufio.NewReader(out), in}
}

func (s *started) line(t testing.TB) string {
	t.Helper()
	line, err := s.out.ReadString('\n')
	if err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	return strings.TrimSuffix(line, "\n")
}

func (s *started) pid(t testing.TB) int {
	t.Helper()
	pid, err := strconv.Atoi(s.line(t))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// status waits for the end.
func (s *started) status() int {
	s.Wait()
	return s.ProcessState.ExitCode()
}

// gone waits until there is no such process, not even a zombie.
func gone(t testing.TB, pid int) {
	t.Helper()
	testnet.Eventually(t, 10*time.Second, fmt.Sprintf("the end of process %d", pid), func() bool {
		return unix.Kill(pid, 0) == unix.ESRCH
	})
}

// helperOf returns the helper of a netstackd.
func helperOf(t testing.TB, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(b))
	if len(fields) != 1 { // a child may hang off another thread
		out, err := exec.Command("pgrep", "-P", strconv.Itoa(pid)).Output()
		if err != nil {
			t.Fatal(err)
		}
		fields = strings.Fields(string(out))
	}
	helper, err := strconv.Atoi(fields[0])
	if err != nil {
		t.Fatal(err)
	}
	return helper
}

// What the command leaves behind ends with it: in its own session, deaf to
// SIGTERM, stopped, or an orphan's orphan.
func TestIntegrationDescendantsEnd(t *testing.T) {
	for _, who := range who {
		t.Run(name(who.name), func(t *testing.T) {
			t.Parallel()
			cmd := start(t, who.exec(t, "sh", "-c", `
				sleep 1000 & echo $!
				setsid sh -c 'trap "" TERM; echo $$; while :; do sleep 1; done' &
				sh -c 'sh -c "echo \$\$; exec sleep 1001" & exit 0'
				sh -c 'kill -STOP $$; :' & echo $!
				read line
				exit 5`))
			var pids []int
			for range 4 {
				pids = append(pids, cmd.pid(t))
			}
			helper := helperOf(t, cmd.Process.Pid)
			fmt.Fprintln(cmd.in, "end")
			if got := cmd.status(); got != 5 {
				t.Errorf("status %d, want 5", got)
			}
			for _, pid := range append(pids, helper) {
				if unix.Kill(pid, 0) != unix.ESRCH {
					t.Errorf("process %d was left", pid)
				}
			}
		})
	}
}

// Orphans are reaped while the command runs.
func TestIntegrationNoZombies(t *testing.T) {
	cmd := start(t, asUser(t, open, "sh", "-c", `for i in 1 2 3 4 5; do sh -c 'sh -c "echo \$\$" & '; done; read line`))
	for range 5 {
		gone(t, cmd.pid(t))
	}
	fmt.Fprintln(cmd.in)
	if got := cmd.status(); got != 0 {
		t.Errorf("status %d", got)
	}
}

// When netstackd dies, the command lives on, and its network is gone.
func TestIntegrationKilled(t *testing.T) {
	cmd := start(t, asUser(t, open, "sh", "-c", `echo $$; read line; ls /proc/sys/net/ipv4/neigh | grep -v default; echo end`))
	pid := cmd.pid(t)
	defer unix.Kill(pid, unix.SIGKILL)
	helper := helperOf(t, cmd.Process.Pid)
	cmd.Process.Signal(syscall.SIGKILL)
	gone(t, helper)
	fmt.Fprintln(cmd.in)
	if got := cmd.line(t); got != "lo" {
		t.Errorf("interface %q is left, want loopback alone", got)
	}
	if got := cmd.line(t); got != "end" {
		t.Errorf("%q", got)
	}
}

// When the helper dies, netstackd says so, and takes the network away.
func TestIntegrationHelperKilled(t *testing.T) {
	var errs strings.Builder
	c := asUser(t, open, "sh", "-c", `echo $$; read line; sleep .2; ls /proc/sys/net/ipv4/neigh | grep -v default`)
	c.Stderr = &errs
	cmd := start(t, c)
	pid := cmd.pid(t)
	defer unix.Kill(pid, unix.SIGKILL)
	unix.Kill(helperOf(t, cmd.Process.Pid), unix.SIGKILL)
	state, err := cmd.Process.Wait()
	if err != nil || state.ExitCode() != 125 {
		t.Errorf("%v, %v, want status 125", state, err)
	}
	fmt.Fprintln(cmd.in)
	if got := cmd.line(t); got != "lo" {
		t.Errorf("interface %q is left, want loopback alone", got)
	}
}

// The daemon gives up: the command is ended, by force if need be.
func TestIntegrationCancel(t *testing.T) {
	for script, want := range map[string]int{
		`trap 'exit 9' TERM; echo ready; while :; do sleep .01; done`: 9,
		`trap '' TERM; echo ready; while :; do sleep .01; done`:       128 + 9,
		`echo ready; exec sleep 1000`:                                 128 + 15,
		`echo ready; kill -STOP $$`:                                   128 + 15,
	} {
		c := asUser(t, open, "-job=false", "-cancel", "sh", "-c", script+" # ")
		c.Stderr = io.Discard // a shell tells of its killed child
		cmd := start(t, c)
		cmd.line(t)
		fmt.Fprintln(cmd.in)
		if got := cmd.status(); got != want {
			t.Errorf("%q: status %d, want %d", script, got, want)
		}
	}
}

// Many at once, each with its own network.
func TestIntegrationFifty(t *testing.T) {
	var wg sync.WaitGroup
	for i := range 50 {
		cmd := asUser(t, open, "sh", "-c", "test $(ls /proc/sys/net/ipv4/neigh | grep -vc default) = 2 && exit $1", "sh", strconv.Itoa(i))
		wg.Go(func() {
			if r := run(t, cmd); r.status != i || r.err != "" {
				t.Errorf("number %d: status %d, %s", i, r.status, r.err)
			}
		})
	}
	wg.Wait()
}

// Killed at any moment of its start or run, netstackd leaves at most the command.
func TestIntegrationKilledAnyTime(t *testing.T) {
	mark := "SANDBOX_TEST_MARK=" + rand.Text()
	for i := range 20 {
		cmd := asUser(t, open, "sh", "-c", "exec true")
		cmd.Env = append(cmd.Env, mark)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// A start takes some 50 ms.
		kill := time.AfterFunc(time.Duration(4*i)*time.Millisecond, func() { cmd.Process.Kill() })
		cmd.Wait()
		kill.Stop()
	}
	testnet.Eventually(t, 10*time.Second, "the end of all its processes", func() bool { return len(withEnv(mark)) == 0 })
}

// withEnv returns the processes that have a variable.
func withEnv(variable string) (processes []string) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		if env, _ := os.ReadFile(dir + "/environ"); bytes.Contains(env, []byte(variable)) {
			line, _ := os.ReadFile(dir + "/cmdline")
			processes = append(processes, string(line))
		}
	}
	return processes
}
