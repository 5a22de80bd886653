package sandbox_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// who runs netstackd, for tests that must hold for all of them.
var who = []struct {
	name   string
	uid    int
	groups string
	exec   func(testing.TB, ...string) *exec.Cmd
}{
	// A group that isn't mapped shows as the overflow group; it counts as before.
	{"user", nobody, "54321 65534", func(t testing.TB, args ...string) *exec.Cmd { return asUser(t, open, args...) }},
	{"root", 0, "0", asRoot},
	{"root without user namespace", 0, "0", func(t testing.TB, args ...string) *exec.Cmd {
		return asRoot(t, append([]string{"-never"}, args...)...)
	}},
}

// What the command keeps of its caller.
func TestIntegrationKeeps(t *testing.T) {
	for _, who := range who {
		t.Run(name(who.name), func(t *testing.T) {
			t.Parallel()
			dir := sharedDir(t)
			var out strings.Builder
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			// fd 3 and, after a gap, fd 5, are the command's.
			const script = `id -u; id -g; pwd; echo "$SANDBOX_TEST_VAR"; for a; do echo "[$a]"; done
				tr a-z A-Z; echo err >&2; echo three >&3; echo five >&5; ls -l /proc/self/fd | grep -cE "socket:|/tun|anon_inode"; exit 3`
			cmd := who.exec(t, "sh", "-c", script, "sh", "a b", "", "c\td")
			cmd.Dir = dir
			cmd.Env = append(cmd.Environ(), "SANDBOX_TEST_VAR=kept whole")
			cmd.Stdin = strings.NewReader("input")
			cmd.Stdout = &out
			var errs strings.Builder
			cmd.Stderr = &errs
			cmd.ExtraFiles = []*os.File{w, nil, w}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			w.Close()
			got := make([]byte, 64)
			n := 0
			for { // to its end: no other process may hold the other end
				m, err := r.Read(got[n:])
				n += m
				if err != nil {
					break
				}
			}
			cmd.Wait()
			if string(got[:n]) != "three\nfive\n" {
				t.Errorf("through the inherited fds came %q", got[:n])
			}
			// The last line counts what must not have come through: TUN, sockets.
			want := fmt.Sprintf("%d\n%d\n%s\nkept whole\n[a b]\n[]\n[c\td]\nINPUT0\n", who.uid, who.uid, dir)
			if out.String() != want {
				t.Errorf("stdout %q, want %q", out.String(), want)
			}
			if errs.String() != "err\n" || cmd.ProcessState.ExitCode() != 3 {
				t.Errorf("status %d, stderr %q", cmd.ProcessState.ExitCode(), errs.String())
			}
		})
	}
}

// The command has no power over its sandbox unless it is root; a file that only
// its supplementary group may read stays readable.
func TestIntegrationPower(t *testing.T) {
	dir := sharedDir(t)
	secret := dir + "/secret"
	if err := os.WriteFile(secret, []byte("for the group\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(secret, 0, nobody+1); err != nil {
		t.Fatal(err)
	}
	want(t, asUser(t, open, "sh", "-c", "grep -E 'Cap(Inh|Prm|Eff|Amb)' /proc/self/status | cut -f2 | sort -u; cat "+secret),
		"0000000000000000\nfor the group\n")
	want(t, asUser(t, open, "sh", "-c", "ip link set tun0 down 2>/dev/null || echo refused"), "refused\n")
	// Root keeps files of every owner, and can't step into the host's network.
	if err := os.Chmod(secret, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(secret, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	want(t, asRoot(t, "sh", "-c", "cat "+secret+"; nsenter -t "+fmt.Sprint(os.Getpid())+" -n true 2>/dev/null || echo refused"),
		"for the group\nrefused\n")
}

// A pipe that the command closes ends, though netstackd's processes live on.
func TestIntegrationLetsGo(t *testing.T) {
	cmd := asUser(t, open, "sh", "-c", "exec 3>&-; read line; echo $line")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd.ExtraFiles = []*os.File{w}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	r.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := r.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("%v, want EOF", err)
	}
	fmt.Fprintln(stdin, "still here")
	if err := cmd.Wait(); err != nil || out.String() != "still here\n" {
		t.Errorf("%v, %q", err, out.String())
	}
}
