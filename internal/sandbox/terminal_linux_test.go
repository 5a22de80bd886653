package sandbox_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"netstackd/internal/testnet"
)

// terminal is a shell in tmux, in which `x` is `netstackd exec` as an ordinary
// user.
type terminal struct {
	t      testing.TB
	socket string
}

func newTerminal(t testing.TB) *terminal {
	t.Helper()
	testnet.RequireRoot(t)
	testnet.RequireTool(t, "tmux", "bash", "less", "unshare")
	dir := sharedDir(t)
	script := fmt.Sprintf("#!/bin/bash\nexport SANDBOX_TEST_BINARY=%s\nexec unshare -m --propagation unchanged bash -c 'exec -a %s %[1]s 666 \"$@\"' bash \"$@\"\n",
		program(t), userName)
	rc := "PS1='$? outer> '\nexport PATH=" + dir + ":$PATH INNER=1\n"
	for file, content := range map[string]string{"x": script, "rc": rc, "inner": "PS1='$? inner> '\n"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	term := &terminal{t, filepath.Join(t.TempDir(), "tmux")}
	term.tmux("-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24",
		fmt.Sprintf("cd %s; exec bash --noprofile --rcfile %s/rc -i", dir, dir))
	t.Cleanup(func() { term.tmux("kill-server") })
	term.see("0 outer> ")
	return term
}

func (term *terminal) tmux(args ...string) string {
	term.t.Helper()
	cmd := exec.Command("tmux", append([]string{"-S", term.socket}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		term.t.Fatalf("tmux %q: %v: %s", args, err, out)
	}
	return string(out)
}

// see waits until the last lines on the screen are these.
func (term *terminal) see(last string) {
	term.t.Helper()
	var screen string
	defer func() {
		if term.t.Failed() {
			term.t.Logf("the screen:\n%s", screen)
		}
	}()
	testnet.Eventually(term.t, 20*time.Second, fmt.Sprintf("%q at the end of the screen", last), func() bool {
		screen = strings.TrimRight(term.tmux("capture-pane", "-p", "-J"), "\n ")
		return strings.HasSuffix(screen, strings.TrimRight(last, " "))
	})
}

// line gives the shell a command, on an empty screen.
func (term *terminal) line(command string) {
	term.t.Helper()
	term.key("C-l")
	term.input(command)
}

// input types a line.
func (term *terminal) input(line string) {
	term.t.Helper()
	term.tmux("send-keys", "-l", line)
	term.key("Enter")
}

func (term *terminal) key(key string) {
	term.t.Helper()
	term.tmux("send-keys", key)
}

// The shell sees the command through us: interrupted, quit, stopped, continued
// in the foreground and in the background.
func TestIntegrationJobControl(t *testing.T) {
	term := newTerminal(t)
	term.line("x sh -c 'echo run; exec sleep 1000'")
	term.see("run")
	term.key("C-c")
	term.see("130 outer> ")

	term.line(`x sh -c 'trap "" QUIT; trap "echo int" INT; echo run; while :; do sleep 1000; done'`)
	term.see("run")
	term.key("C-c")
	term.see("^Cint") // once
	term.key("C-z")
	term.see("148 outer> ") // 128 + SIGTSTP, as of the command itself
	term.line("jobs")
	term.see("148 outer> jobs\n[1]+  Stopped                 x sh -c 'trap \"\" QUIT; trap \"echo int\" INT; echo run; while :; do sleep 1000; done'\n0 outer> ")
	term.line("kill -KILL %1; wait; true")
	term.see("0 outer> ")

	term.line("x sh -c 'echo run; exec cat'")
	term.see("\nrun")
	term.key("C-z")
	term.see("148 outer> ")
	term.line("fg")
	term.see("exec cat'")
	term.input("typed")
	term.see("typed\ntyped")
	term.key("C-d")
	term.see("0 outer> ")

	// Read from the terminal in the background: it stops.
	term.line("x sh -c 'read a; echo got $a' &")
	testnet.Eventually(t, 20*time.Second, "the job to stop", func() bool {
		term.line("jobs")
		return strings.Contains(term.tmux("capture-pane", "-p", "-J"), "Stopped")
	})
	term.line("fg")
	term.see("echo got $a'")
	term.input("this")
	term.see("got this\n0 outer> ")
}

// A shell inside has jobs of its own; and with it suspended, so are we.
func TestIntegrationShell(t *testing.T) {
	term := newTerminal(t)
	term.line("x bash --noprofile --rcfile inner -i")
	term.see("0 inner> ")
	term.line("sh -c 'echo run; exec sleep 1000'")
	term.see("\nrun")
	term.key("C-z")
	term.see("148 inner> ")
	term.line("fg")
	term.see("exec sleep 1000'")
	term.key("C-c")
	term.see("130 inner> ")
	term.line("suspend")
	term.see("outer> ")
	term.line("fg")
	term.see("inner> ")
	term.line("stty size")
	term.see("24 80\n0 inner> ")
	term.tmux("resize-window", "-x", "91", "-y", "20")
	term.line("stty size")
	term.see("20 91\n0 inner> ")
	term.line("exit 7")
	term.see("7 outer> ")
}

// The rest of a pipeline keeps the terminal.
func TestIntegrationPipeline(t *testing.T) {
	term := newTerminal(t)
	term.line("x seq 100000 | less")
	term.see("\n:")
	term.key("G")
	term.see("100000\n(END)")
	term.key("q")
	term.see("0 outer> ")
	term.line("seq 100000 | x less")
	term.see("\n:")
	term.key("C-z")
	term.see("148 outer> ")
	term.line("fg")
	term.see("\n:")
	term.key("q")
	term.see("0 outer> ")
	term.line("x seq 100000 | head -1; echo ${PIPESTATUS[*]}")
	term.see("1\n141 0\n0 outer> ")
}
