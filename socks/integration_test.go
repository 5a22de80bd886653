//go:build linux

package socks_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"netstackd/socks"
)

// These tests put programs that people use in front of our server, and behind
// our client. Each proves that it went through: the server's counters moved.

// program returns the path of a program. Without it the test is skipped, or
// fails where everything has to be there.
func program(t testing.TB, name, debianPackage string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + name)
	}
	if err != nil {
		absent(t, fmt.Sprintf("%s is not installed: apt-get install %s", name, debianPackage))
	}
	return path
}

func absent(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("NETSTACKD_INTEGRATION") == "1" {
		t.Fatal(what)
	}
	t.Skip(what)
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		absent(t, "needs root")
	}
}

// run runs a command to its end and returns its standard output.
func run(t testing.TB, env []string, stdin io.Reader, name string, args ...string) string {
	t.Helper()
	out, err := try(t, env, stdin, name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func try(t testing.TB, env []string, stdin io.Reader, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = t.TempDir() // not here: "socks" is also a Python module
	cmd.Env = append(cmd.Environ(), env...)
	cmd.Stdin = stdin
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		return "", err
	}
	timer := time.AfterFunc(60*time.Second, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	err := cmd.Wait()
	timer.Stop()
	if err != nil {
		return stdout.String(), fmt.Errorf("%s: %w\n%s%s", cmd, err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

// daemon starts another project's server and waits until it listens.
func daemon(t testing.TB, address, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = t.TempDir()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var output lockedBuffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended
		if t.Failed() {
			t.Logf("%s:\n%s", cmd, output.String())
		}
	})
	eventually(t, name+" listens", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// site is a web server whose pages are big, with their sum to compare.
type site struct {
	addr string
	page string
	sum  string
	mu   sync.Mutex
	seen map[string]int // requests by path
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{seen: make(map[string]int), page: strings.Repeat("0123456789abcdef", 1<<16)}
	s.sum = fmt.Sprintf("%x", sha256.Sum256([]byte(s.page)))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = ln.Addr().String()
	srv := &http.Server{Handler: s}
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(ln) })
	t.Cleanup(func() { srv.Close(); wg.Wait() })
	return s
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.seen[r.URL.Path]++
	s.mu.Unlock()
	switch {
	case r.Method == http.MethodPut:
		h := sha256.New()
		io.Copy(h, r.Body)
		fmt.Fprintf(w, "%x", h.Sum(nil))
	case r.URL.Path == "/page":
		io.WriteString(w, s.page)
	case strings.HasPrefix(r.URL.Path, "/script"):
		w.Header().Set("Content-Type", "text/javascript")
		fmt.Fprintf(w, "loaded++; document.title = 'loaded ' + loaded;")
	case r.URL.Path == "/index.html":
		io.WriteString(w, "<html><head><title>none</title><script>var loaded = 0</script>")
		for i := range 20 {
			fmt.Fprintf(w, "<script src=/script%d.js></script>", i)
		}
		io.WriteString(w, "</head><body>page</body></html>")
	default:
		http.NotFound(w, r)
	}
}

func (s *site) named() string { return "echo.test:" + port(s.addr) }

func sum(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) }

func TestIntegrationCurl(t *testing.T) {
	curl := program(t, "curl", "curl")
	s := newSite(t)
	open := start(t, local, socks.Config{})
	closed := start(t, local, socks.Config{Auth: credentials(t, "us er:p@ss:w", "e:")})
	upload := filepath.Join(t.TempDir(), "upload")
	if err := os.WriteFile(upload, []byte(s.page), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		args   []string
		server string
		byName bool
		auth   bool // works only with credentials where they are asked for
	}{
		{"socks4", []string{"--socks4", "%s"}, s.addr, false, false},
		{"socks4a", []string{"--socks4a", "%s"}, s.named(), true, false},
		{"socks5", []string{"--socks5", "%s"}, s.addr, false, true},
		{"socks5-hostname", []string{"--socks5-hostname", "%s"}, s.named(), true, true},
		{"http", []string{"--proxy", "http://%s"}, s.named(), true, true},
		{"http tunnel", []string{"--proxytunnel", "--proxy", "http://%s"}, s.named(), true, true},
	} {
		call := func(p *proxy, more ...string) (string, error) {
			var args []string
			for _, a := range tc.args {
				args = append(args, strings.ReplaceAll(a, "%s", p.addr))
			}
			args = append(args, "--silent", "--show-error", "--fail", "--max-time", "20", "--noproxy", "")
			before := p.flows.Stats().Opened
			out, err := try(t, nil, nil, curl, append(args, more...)...)
			if err == nil && p.flows.Stats().Opened == before {
				return "", fmt.Errorf("curl went around the proxy")
			}
			return out, err
		}
		url := "http://" + tc.server
		t.Run(tc.name, func(t *testing.T) {
			out, err := call(open, url+"/page", url+"/page")
			if err != nil || out != s.page+s.page {
				t.Fatalf("%d bytes, %v", len(out), err)
			}
			if out, err = call(open, "--upload-file", upload, url+"/put"); err != nil || out != s.sum {
				t.Fatalf("upload: %q, %v", out, err)
			}
			if _, err = call(open, "http://"+closedPort(t)+"/"); err == nil {
				t.Error("a closed port answers")
			}
			if _, err = call(closed, url+"/page"); err == nil {
				t.Error("no credentials were asked for")
			}
			if _, err = call(closed, "--proxy-user", "us er:wrong", url+"/page"); err == nil {
				t.Error("wrong credentials were taken")
			}
			if !tc.auth {
				return
			}
			for _, user := range []string{"us er:p@ss:w", "e:"} {
				if out, err := call(closed, "--proxy-user", user, url+"/page"); err != nil || out != s.page {
					t.Errorf("with credentials: %d bytes, %v", len(out), err)
				}
			}
		})
	}
}
