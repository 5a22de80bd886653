//go:build linux

package main_test

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"netstackd/internal/testnet"

	"golang.org/x/sys/unix"
)

// startLogging runs netstackd at debug on a host until it is ready, and returns
// the read end of the pipe that its log goes to. Nothing reads it from then on.
func startLogging(t *testing.T, h *testnet.Host, args ...string) (*exec.Cmd, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	if _, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 4096); err != nil {
		t.Fatal(err)
	}
	// The pipe is blocking, as a shell's is: Fd has seen to that.
	cmd := h.Command(t.Context(), program.Path(t), append([]string{"--log-level", "debug", "--drain", "0s"}, args...)...)
	cmd.Stderr = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() { stop(cmd) })
	for lines := bufio.NewScanner(r); lines.Scan(); {
		if strings.Contains(lines.Text(), "ready") {
			return cmd, r
		}
	}
	t.Fatal("netstackd ended before it was ready")
	return nil, nil
}

// endsWell checks that SIGTERM ends the daemon with status 0 and within 3 s.
func endsWell(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	began := time.Now()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	if took := time.Since(began); err != nil || took > 3*time.Second {
		t.Errorf("ended after %v: %v", took, err)
	}
}

// The reader of the log goes: the daemon carries on, and in the end undoes what
// it did to the host.
func TestIntegrationLogReaderGone(t *testing.T) {
	testnet.RequireTool(t, "nft", "sysctl")
	n := testnet.New(t)
	port := n.B.ServeTCP(t, ":0", testnet.Echo)
	before := hostState(t, n.A)
	cmd, log := startLogging(t, n.A, routes()...)
	log.Close()
	for i := range 20 {
		exchange(t, dialTCP(t, n.A, dest(testnet.IPv4, i, port)), "without a log")
		if _, err := n.A.DialTimeout("tcp", dest(testnet.IPv4, i, 1), 5*time.Second); err == nil {
			t.Error("a closed port took a connection")
		}
	}
	endsWell(t, cmd)
	wantSameState(t, before, hostState(t, n.A))
}

// The reader of the log hangs, as a terminal after Ctrl-S: flows are carried as
// before, and when the log is read again it says how many lines it lacks.
func TestIntegrationLogBlocked(t *testing.T) {
	n := testnet.New(t)
	port := n.B.ServeTCP(t, ":0", testnet.Echo)
	cmd, log := startLogging(t, n.A, routes()...)
	const flows = 3000 // about 200 bytes of log each, of 512 KiB that wait
	for i := range flows {
		c, err := n.A.DialTimeout("tcp", dest(testnet.IPv4, i, port), 5*time.Second)
		if err != nil {
			t.Fatalf("flow %d: %v", i, err)
		}
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		err = tryExchange(c, "blocked")
		c.Close()
		if err != nil {
			t.Fatalf("flow %d: %v", i, err)
		}
	}
	said := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(log)
		said <- string(text)
	}()
	endsWell(t, cmd)
	if text := <-said; !strings.Contains(text, "log lines were dropped") {
		t.Errorf("%d bytes of log without a word of dropped lines, of which the last is %q", len(text), lastLine(text))
	}
}

// A log that is blocked to the end doesn't hold the end up.
func TestIntegrationLogBlockedToTheEnd(t *testing.T) {
	n := testnet.New(t)
	before := hostState(t, n.A)
	cmd, _ := startLogging(t, n.A, routes()...)
	for i := range 100 {
		if _, err := n.A.DialTimeout("tcp", dest(testnet.IPv4, i, 1), 5*time.Second); err == nil {
			t.Error("a closed port took a connection")
		}
	}
	endsWell(t, cmd)
	wantSameState(t, before, hostState(t, n.A))
}
