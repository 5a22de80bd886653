//go:build linux

package main_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"netstackd/internal/testnet"

	"golang.org/x/sync/errgroup"
)

// execAs is `netstackd exec ARGS` on the host as an ordinary user, for whom
// /dev/net/tun has the given mode. The device is one of the command's own
// mount namespace, which `ip netns exec` makes.
func execAs(t *testing.T, h *testnet.Host, tunMode string, args ...string) *exec.Cmd {
	t.Helper()
	testnet.RequireTool(t, "setpriv", "mknod", "mount")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	script := "mount -t tmpfs tmpfs /dev/net && mknod /dev/net/tun c 10 200 && chmod " + tunMode + " /dev/net/tun && cd /tmp &&" +
		` exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all "$@"`
	cmd := h.Command(ctx, "sh", append([]string{"-c", script, "sh", program.Path(t), "exec"}, args...)...)
	cmd.Env = append(os.Environ(), "HOME=/tmp")
	return cmd
}

// runExec runs it for an ordinary user who may open the device.
func runExec(t *testing.T, h *testnet.Host, args ...string) result {
	t.Helper()
	return run(t, execAs(t, h, "0666", args...))
}

// One command's traffic, without root: all of it works and all of it comes
// from the stack's sockets on the host.
func TestIntegrationExec(t *testing.T) {
	testnet.RequireTool(t, "curl", "dig", "ping", "iperf3")
	n := testnet.New(t)
	web := n.B.ServeHTTP(t, ":0", http.HandlerFunc(testnet.PeerPage))
	n.B.ServeDNS(t, "0.0.0.0:53", map[string][]netip.Addr{"www.test": {testnet.Dest(testnet.IPv4, 1)}})
	serveIperf(t, n.B)
	before := hostState(t, n.A)
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		for _, tt := range []struct {
			name, command, want string
		}{
			{"curl", "curl -sS --max-time 10 http://" + dest(f, 1, web) + "/", "hello " + n.A.Addr(f).String()},
			{"ping", "ping -c 2 -i 0.2 -W 5 " + testnet.Dest(f, 1).String(), " 2 received"},
			{"iperf3 up", "iperf3 -t 1 -c " + testnet.Dest(f, 1).String(), "receiver"},
			{"iperf3 down", "iperf3 -R -t 1 -c " + testnet.Dest(f, 1).String(), "receiver"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				r := runExec(t, n.A, append([]string{"--"}, strings.Fields(tt.command)...)...)
				if r.status != 0 || !strings.Contains(r.stdout, tt.want) {
					t.Errorf("status %d, stdout %q, stderr %q", r.status, r.stdout, r.stderr)
				}
			})
		}
	})
	t.Run("dig", func(t *testing.T) {
		r := runExec(t, n.A, "--", "dig", "+short", "+tries=1", "@"+testnet.Dest(testnet.IPv4, 2).String(), "www.test")
		if strings.TrimSpace(r.stdout) != testnet.Dest(testnet.IPv4, 1).String() {
			t.Errorf("stdout %q, stderr %q", r.stdout, r.stderr)
		}
	})
	wantSameState(t, before, hostState(t, n.A))
}

// The status is the command's own, and 125 to 127 say who failed otherwise.
func TestIntegrationExecStatus(t *testing.T) {
	n := testnet.New(t)
	for _, tt := range []struct {
		args string
		want int
	}{
		{"-- true", 0},
		{"-- sh -c exit\\ 7", 7},
		{"-- sh -c kill\\ -TERM\\ $$", 128 + 15},
		{"-- /nonexistent", 127},
		{"-- /etc/passwd", 126},
		{"--allow nonsense -- true", 125},
		{"--tun x -- true", 125},
		{"", 125},
	} {
		t.Run(tt.args, func(t *testing.T) {
			r := runExec(t, n.A, words(tt.args)...)
			if r.status != tt.want {
				t.Errorf("status %d, want %d: %s", r.status, tt.want, r.stderr)
			}
			if r.status >= 125 && r.status <= 127 && strings.Count(r.stderr, "\n") != 1 {
				t.Errorf("standard error is not one line:\n%s", r.stderr)
			}
		})
	}
}

// words splits at spaces that no backslash precedes.
func words(s string) []string {
	var out []string
	for _, w := range strings.Fields(strings.ReplaceAll(s, `\ `, "\x00")) {
		out = append(out, strings.ReplaceAll(w, "\x00", " "))
	}
	return out
}

// Where the sandbox can't be made, the command doesn't run at all.
func TestIntegrationExecFailsClosed(t *testing.T) {
	n := testnet.New(t)
	marker := filepath.Join(os.TempDir(), fmt.Sprintf("netstackd-marker-%d", os.Getpid()))
	t.Cleanup(func() { os.Remove(marker) })
	r := run(t, execAs(t, n.A, "0600", "--", "touch", marker))
	r.oneLine(t, 125, "/dev/net/tun")
	if _, err := os.Stat(marker); err == nil {
		t.Error("the command ran")
	}
}

// What may go out, and what may come in.
func TestIntegrationExecPolicy(t *testing.T) {
	testnet.RequireTool(t, "curl", "nc")
	n := testnet.New(t)
	web := n.B.ServeHTTP(t, ":0", http.HandlerFunc(testnet.PeerPage))
	fetch := func(i int, flags ...string) result {
		return runExec(t, n.A, append(flags, "--", "curl", "-sS", "--max-time", "5", "http://"+dest(testnet.IPv4, i, web)+"/")...)
	}
	allow := testnet.Dest(testnet.IPv4, 1).String() + "/32"
	if r := fetch(1, "--allow", allow); r.status != 0 {
		t.Errorf("what is allowed: %d %s", r.status, r.stderr)
	}
	if r := fetch(2, "--allow", allow); r.status != 7 { // curl: couldn't connect
		t.Errorf("what is not: %d %s", r.status, r.stderr)
	}
	if r := fetch(1, "--block-lan"); r.status != 7 {
		t.Errorf("a private destination with --block-lan: %d %s", r.status, r.stderr)
	}
	t.Run("publish", func(t *testing.T) {
		cmd := execAs(t, n.A, "0666", "--publish", "0.0.0.0:8080:80", "--", "nc", "-l", "-p", "8081")
		cmd.Args[len(cmd.Args)-1] = "80"
		cmd.Stdin = strings.NewReader("published\n")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { stop(cmd) })
		testnet.Eventually(t, 10*time.Second, "the published port answers", func() bool {
			c, err := n.B.DialTimeout("tcp", netip.AddrPortFrom(n.A.IP4, 8080).String(), time.Second)
			if err != nil {
				return false
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(2 * time.Second))
			buf := make([]byte, 9)
			_, err = c.Read(buf)
			return err == nil && string(buf) == "published"
		})
	})
}

// What a command has sent arrives, though the command has ended; it is not
// waited for that the other side ends too.
func TestIntegrationExecSendsAll(t *testing.T) {
	testnet.RequireTool(t, "bash")
	n := testnet.New(t)
	const size = 2 << 20
	ended := make(chan struct{})
	got := make(chan int64, 1)
	port := n.B.ServeTCP(t, ":0", func(c *net.TCPConn) {
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		count, _ := io.Copy(io.Discard, c)
		<-ended // up to here, this side stays open
		got <- count
	})
	to := netip.MustParseAddrPort(dest(testnet.IPv4, 1, port))
	begin := time.Now()
	r := runExec(t, n.A, "--drain", "15s", "--", "bash", "-c",
		fmt.Sprintf("head -c %d /dev/zero >/dev/tcp/%s/%d", size, to.Addr(), to.Port()))
	close(ended)
	if took := time.Since(begin); took > 12*time.Second {
		t.Errorf("the end took %v", took)
	}
	select {
	case count := <-got:
		if r.status != 0 || count != size {
			t.Errorf("%d of %d bytes arrived; status %d %s", count, size, r.status, r.stderr)
		}
	case <-time.After(20 * time.Second):
		t.Error("no end of stream")
	}
}

// A flag that this user may not use stops the command, not its connections.
func TestIntegrationExecChecksFlags(t *testing.T) {
	n := testnet.New(t)
	for flag, value := range map[string]string{"--interface": "nosuch", "--fwmark": "5"} {
		r := runExec(t, n.A, flag, value, "--", "echo", "ran")
		r.oneLine(t, 125, flag)
		if r.stdout != "" {
			t.Errorf("%s: the command ran", flag)
		}
	}
}

// A capture that is not whole is a failure of exec's own.
func TestIntegrationExecPcapFull(t *testing.T) {
	testnet.RequireTool(t, "ping")
	n := testnet.New(t)
	r := runExec(t, n.A, "--pcap", "/dev/full", "--", "ping", "-c1", testnet.Dest(testnet.IPv4, 1).String())
	r.oneLine(t, 125, "--pcap", "not whole", "no space left")
	if !strings.Contains(r.stdout, " 1 received") {
		t.Errorf("the command had no answer: %q", r.stdout)
	}
}

// One file may serve run and exec; exec says which keys it passes over.
func TestIntegrationExecConfigKeys(t *testing.T) {
	n := testnet.New(t)
	file := filepath.Join(t.TempDir(), "netstackd.yaml")
	if err := os.WriteFile(file, []byte("route: [default]\nmtu: 1400\nexclude: 10.0.0.0/8\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := run(t, n.A.Command(t.Context(), program.Path(t), "exec", "--config", file, "--", "echo", "ran"))
	r.oneLine(t, 0, "level=WARN", "no effect in exec", "keys=route,exclude")
	if r.stdout != "ran\n" {
		t.Errorf("the command printed %q", r.stdout)
	}
}

// The command inherits what it would without netstackd: SIGPIPE has its default
// effect, no more signals are blocked or ignored, and no descriptor of ours is
// open. The test's own parent may ignore a signal that no program can reset
// (glibc keeps 32 and 33 to itself), so that the comparison is with a plain run.
func TestIntegrationExecInheritsNothing(t *testing.T) {
	testnet.RequireTool(t, "bash")
	n := testnet.New(t)
	const script = `yes | head -n 1 >/dev/null; echo ${PIPESTATUS[0]}
		grep -E 'Sig(Blk|Ign)' /proc/self/status | cut -f2
		for fd in /proc/$$/fd/*; do echo ${fd##*/}; done`
	without := run(t, n.A.Command(t.Context(), "bash", "-c", script))
	r := run(t, n.A.Command(t.Context(), program.Path(t), "exec", "--", "bash", "-c", script))
	if r.status != 0 || r.stdout != without.stdout || !strings.HasPrefix(r.stdout, "141\n0000000000000000\n") {
		t.Errorf("status %d, stdout %q, without netstackd %q: %s", r.status, r.stdout, without.stdout, r.stderr)
	}
}

// startUpstream runs a SOCKS server on B until the test ends, and returns its
// address.
func startUpstream(t *testing.T, n *testnet.Network, args ...string) (address string) {
	t.Helper()
	upstream := n.B.Command(t.Context(), "microsocks", append([]string{"-p", "1080"}, args...)...)
	if err := upstream.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(upstream) })
	address = netip.AddrPortFrom(n.B.IP4, 1080).String()
	testnet.Eventually(t, 5*time.Second, "microsocks listens", func() bool {
		c, err := n.A.DialTimeout("tcp", address, time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return address
}

// With --via all goes through the upstream, names included.
func TestIntegrationExecVia(t *testing.T) {
	testnet.RequireTool(t, "curl", "microsocks")
	n := testnet.New(t)
	web := n.B.ServeHTTP(t, ":0", http.HandlerFunc(testnet.PeerPage))
	via := "socks5://" + startUpstream(t, n)
	// B's own loopback, which only B reaches.
	r := runExec(t, n.A, "--via", via, "--", "curl", "-sS", "--max-time", "10", fmt.Sprintf("http://%s/", dest(testnet.IPv4, 1, web)))
	if want := "hello " + testnet.Dest(testnet.IPv4, 1).String() + "\n"; r.status != 0 || r.stdout == "" || r.stdout == "hello "+n.A.IP4.String()+"\n" {
		t.Errorf("status %d, stdout %q, want one such as %q: %s", r.status, r.stdout, want, r.stderr)
	}
}

// A mistyped password, or a dead upstream, is said, once for all connections,
// without what is private.
func TestIntegrationExecViaFault(t *testing.T) {
	testnet.RequireTool(t, "curl", "microsocks")
	n := testnet.New(t)
	live, dead := startUpstream(t, n, "-u", "user", "-P", "secret"), netip.AddrPortFrom(n.B.IP4, 9).String()
	target := testnet.Dest(testnet.IPv4, 1).String()
	fetch := "curl -s --max-time 5 http://" + target + "/"
	for _, tt := range []struct{ name, via, want string }{
		{"password", "socks5://user:typo@" + live, "authentication refused"},
		{"no password", "socks5://" + live, "no acceptable authentication method"},
		{"dead", "socks5://user:typo@" + dead, "connection refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := runExec(t, n.A, "--via", tt.via, "--", "sh", "-c", fetch+"; "+fetch+"; true")
			r.oneLine(t, 0, "level=WARN", "via=socks5://"+tt.via[strings.LastIndexAny(tt.via, "@/")+1:], tt.want)
			for _, private := range []string{"typo", target} {
				if strings.Contains(r.stderr, private) {
					t.Errorf("standard error tells of %q:\n%s", private, r.stderr)
				}
			}
		})
	}
}

// Many at once, and nothing is left.
func TestIntegrationExecMany(t *testing.T) {
	testnet.RequireTool(t, "curl")
	n := testnet.New(t)
	web := n.B.ServeHTTP(t, ":0", http.HandlerFunc(testnet.PeerPage))
	var g errgroup.Group
	g.SetLimit(25)
	for i := range 50 {
		cmd := execAs(t, n.A, "0666", "--", "curl", "-sS", "--max-time", "20", "http://"+dest(testnet.IPv4, i, web)+"/")
		g.Go(func() error {
			if out, err := cmd.CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "hello ") {
				return fmt.Errorf("%d: %w: %s", i, err, out)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	testnet.Eventually(t, 5*time.Second, "no process is left", func() bool {
		return strings.TrimSpace(n.A.Run(t, "sh", "-c", "ip netns pids "+n.A.Name+" | grep -v $$ | wc -l")) <= "2"
	})
}
