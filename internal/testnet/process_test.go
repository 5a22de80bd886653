//go:build linux

package testnet_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"netstackd/internal/testnet"
)

const signalsName = "testnet-signals"

func TestMain(m *testing.M) {
	testnet.DefaultSignals()
	if os.Args[0] == signalsName {
		out, err := exec.Command("grep", "-E", "Sig(Ign|Blk)", "/proc/self/status").Output()
		fmt.Print(string(out), os.Args[1:], err, os.Getenv("NETSTACKD_TEST_SIGNALS"), "\n")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// What a test starts has default signals, whatever the test's own parent left to it.
func TestDefaultSignals(t *testing.T) {
	testnet.RequireTool(t, "env", "bash")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("env", "--ignore-signal=HUP,INT,QUIT,PIPE,CHLD,TSTP,TTOU,USR1", "--block-signal=HUP,TERM,USR2,WINCH",
		"bash", "-c", `exec -a `+signalsName+` "$@"`, "bash", exe, "kept", "args")
	out, err := cmd.CombinedOutput()
	// The parent may ignore 32, which no program can reset: glibc keeps it to itself.
	want := regexp.MustCompile("^SigBlk:\t0{16}\nSigIgn:\t0{8}[08]0{7}\n\\[kept args\\] <nil>\n$")
	if err != nil || !want.Match(out) {
		t.Errorf("%q, %v; want %q", out, err, want)
	}
}

// A descendant that has left its process group and blocks signals goes too.
func TestKillTree(t *testing.T) {
	testnet.RequireTool(t, "bash", "setsid")
	cmd := exec.Command("bash", "-c", `setsid bash -c 'trap "" TERM HUP INT; echo ready; sleep 60; true'; true`)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(out)
	if line, err := r.ReadString('\n'); err != nil || strings.TrimSpace(line) != "ready" {
		t.Errorf("%q, %v", line, err)
	}
	testnet.KillTree(cmd.Process.Pid)
	if rest, err := io.ReadAll(r); err != nil || len(rest) != 0 { // ends when no process has the pipe
		t.Errorf("%q, %v", rest, err)
	}
	_ = cmd.Wait() // killed
}
