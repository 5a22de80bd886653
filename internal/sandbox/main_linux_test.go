package sandbox_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"netstackd/internal/sandbox"
	"netstackd/internal/testnet"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// The test binary is started again as what it tests: the helper, the program
// that would be netstackd, and the step before that becomes an ordinary user.
const (
	execName = "sandbox-test-exec"
	userName = "sandbox-test-user"
)

func TestMain(m *testing.M) {
	switch {
	case sandbox.IsHelper():
		os.Exit(sandbox.Main())
	case os.Args[0] == execName:
		status := execMain(os.Args[1:])
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines are left:", err)
			status = 98
		}
		os.Exit(status)
	case os.Args[0] == userName:
		userMain(os.Args[1:])
	}
	// Programs that a test starts have each signal's default effect, even when
	// the test's own parent ignores some (nohup): a caught one is reset by exec.
	if signal.Ignored(unix.SIGHUP) {
		signal.Notify(make(chan os.Signal, 1), unix.SIGHUP)
	}
	testnet.DefaultSignals()
	status := m.Run()
	if path, err := binary(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(status)
}

// execMain is `netstackd exec` with fakeStack for a daemon.
func execMain(args []string) int {
	flags := flag.NewFlagSet(execName, flag.ContinueOnError)
	deaf := flags.Bool("deaf", false, "nobody serves the TUN")
	noIPv6 := flags.Bool("no-ipv6", false, "")
	job := flags.Bool("job", true, "job control")
	never := flags.Bool("never", false, "no user namespace")
	publish := flags.Int("publish", 0, "print what this port inside answers to a line on standard input")
	stop := flags.Bool("cancel", false, "end the wait at a line on standard input")
	dir := flags.String("dir", "", "")
	refuse := flags.Bool("refuse", false, "carry no connection on")
	mtu := flags.Int("mtu", 0, "of the TUN")
	path := flags.Int("path-mtu", 0, "of what is beyond it")
	mapped := flags.String("map", "", "where all connections go")
	if err := flags.Parse(args); err != nil {
		return sandbox.StatusFailed
	}
	cfg := sandbox.Config{
		Command:    flags.Args(),
		Dir:        *dir,
		Addresses:  []netip.Prefix{netip.MustParsePrefix("198.18.0.1/30"), netip.MustParsePrefix("fd19:8::1/126")},
		Nameserver: netip.MustParseAddr("198.18.0.2"),
		MTU:        *mtu,
		PathMTU:    *path,
		NoIPv6:     *noIPv6,
		JobControl: *job,
		Grace:      300 * time.Millisecond,
	}
	if *never {
		cfg.UserNamespace = sandbox.Never
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "exec:", err)
		return sandbox.Status(err)
	}
	s, err := sandbox.Start(ctx, cfg)
	if err != nil {
		return fail(err)
	}
	defer s.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	if !*deaf {
		f := newFakeStack(s.TUN()[0], 1500, s.Dialer(&hostDialer{to: *mapped, refuse: *refuse}))
		wg.Go(func() { f.serve(ctx) })
		defer f.st.Destroy()
	}
	if err := s.Run(ctx); err != nil {
		return fail(err)
	}
	waiting, endWait := context.WithCancel(ctx)
	defer endWait()
	if *stop {
		wg.Go(func() {
			bufio.NewReader(os.Stdin).ReadString('\n')
			endWait()
		})
	}
	if *publish != 0 {
		wg.Go(func() {
			bufio.NewReader(os.Stdin).ReadString('\n')
			c, err := s.Dial(ctx, "tcp", net.JoinHostPort("127.0.0.1", fmt.Sprint(*publish)))
			if err != nil {
				fmt.Println("dial:", err)
				return
			}
			defer c.Close()
			line, _ := bufio.NewReader(c).ReadString('\n')
			fmt.Printf("published: %T %s", c, line)
		})
	}
	status, err := s.Wait(waiting)
	if err != nil {
		return fail(err)
	}
	return status
}

// nobody is who the tests run as: ids that this host has no user for.
const nobody = 54321

// userMain becomes an ordinary user, with access to /dev/net/tun by a mode that
// is the first argument, and runs the rest. It is in a mount namespace of its own,
// in which SANDBOX_TEST_HOST may change the host's files before, as root.
func userMain(args []string) {
	must := func(what string, err error) {
		if err != nil {
			fmt.Fprintf(os.Stderr, "become a user: %s: %v\n", what, err)
			os.Exit(99)
		}
	}
	must("mounts", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must("mount", unix.Mount("tmpfs", "/dev/net", "tmpfs", 0, "mode=755"))
	var mode uint32
	if _, err := fmt.Sscanf(args[0], "%o", &mode); err == nil {
		must("mknod", unix.Mknod("/dev/net/tun", unix.S_IFCHR|0o600, int(unix.Mkdev(10, 200))))
		must("chmod", unix.Chmod("/dev/net/tun", mode))
	}
	if script := os.Getenv("SANDBOX_TEST_HOST"); script != "" {
		cmd := exec.Command("sh", "-ec", script)
		cmd.Stderr = os.Stderr
		must("host", cmd.Run())
	}
	must("groups", syscall.Setgroups([]int{nobody + 1}))
	must("gid", syscall.Setgid(nobody))
	must("uid", syscall.Setuid(nobody))
	if os.Getenv("SANDBOX_TEST_SECCOMP") != "" {
		runtime.LockOSThread() // the filter is this thread's
		must("seccomp", contain())
	}
	must("exec", syscall.Exec(os.Getenv("SANDBOX_TEST_BINARY"), append([]string{execName}, args[1:]...), os.Environ()))
}

var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "sandbox-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "test")
	b, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(path, b, 0o755)
	}
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	return path, err
})

// program returns the path of the test binary where every user can run it.
func program(t testing.TB) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// sharedDir is a directory that every user can look into.
func sharedDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(filepath.Dir(program(t)), "")
	if err == nil {
		err = os.Chmod(dir, 0o777|os.ModeSticky)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// tunMode is the file mode of /dev/net/tun, "none" for no such file.
type tunMode string

// asUser is `netstackd exec args` run by an ordinary user.
func asUser(t testing.TB, mode tunMode, args ...string) *exec.Cmd {
	t.Helper()
	testnet.RequireRoot(t)
	path := program(t)
	cmd := command(t, path)
	cmd.Args = append([]string{userName, string(mode)}, args...)
	cmd.Env = append(os.Environ(), "SANDBOX_TEST_BINARY="+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	cmd.Dir = filepath.Dir(path)
	return cmd
}

// asRoot is `netstackd exec args` run by root.
func asRoot(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	testnet.RequireRoot(t)
	path := program(t)
	cmd := command(t, path)
	cmd.Args = append([]string{execName}, args...)
	return cmd
}

// command ends with the test, or when it hangs, with all that it has started.
func command(t testing.TB, path string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Cancel = func() error {
		testnet.KillTree(cmd.Process.Pid)
		return nil
	}
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// result is what a program printed, and its status.
type result struct {
	out, err string
	status   int
}

func run(t testing.TB, cmd *exec.Cmd) result {
	t.Helper()
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	status := cmd.ProcessState.ExitCode()
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
		t.Errorf("%q was killed by %v: %s", cmd.Args, ws.Signal(), errs.String())
	}
	return result{out.String(), errs.String(), status}
}

// withInput gives a program its standard input.
func withInput(cmd *exec.Cmd, input string) *exec.Cmd {
	cmd.Stdin = strings.NewReader(input)
	return cmd
}

// want runs a program that must print out and end with status 0.
func want(t testing.TB, cmd *exec.Cmd, out string) {
	t.Helper()
	if r := run(t, cmd); r.status != 0 || r.out != out {
		t.Errorf("%q: status %d, printed %q, want %q; stderr %q", cmd.Args, r.status, r.out, out, r.err)
	}
}
