//go:build linux

package main_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"netstackd/internal/testnet"
)

// tun is the interface that netstackd makes when it isn't told a name.
const tun = "netstackd0"

// program is built by the first test that needs it.
var program testnet.Binary

func TestMain(m *testing.M) {
	if os.Getenv(holderEnv) != "" {
		os.Exit(holdConnections())
	}
	testnet.DefaultSignals()
	status := m.Run()
	program.Remove()
	os.Exit(status)
}

// start runs netstackd on A of a new network. Unless args say otherwise it
// doesn't wait for the test's connections when it is stopped.
func start(t *testing.T, args ...string) (*testnet.Network, *testnet.Daemon) {
	t.Helper()
	n := testnet.New(t)
	return n, n.A.Start(t, program.Path(t), append([]string{"--drain", "0s"}, args...)...)
}

// startRouted is start with every Dest of both families routed into the TUN.
func startRouted(t *testing.T, args ...string) (*testnet.Network, *testnet.Daemon) {
	t.Helper()
	return start(t, append(routes(), args...)...)
}

func routes() []string {
	return []string{
		"--route", testnet.DestPrefix(testnet.IPv4).String(),
		"--route", testnet.DestPrefix(testnet.IPv6).String(),
	}
}

// stackAddr is the stack's address.
func stackAddr(f testnet.Family) netip.Addr {
	if f == testnet.IPv4 {
		return netip.MustParseAddr("198.18.0.2")
	}
	return netip.MustParseAddr("fd19:8::2")
}

func wildcard(f testnet.Family) string {
	if f == testnet.IPv4 {
		return "0.0.0.0:0"
	}
	return "[::]:0"
}

// dest is the i-th destination behind the route, with a port.
func dest(f testnet.Family, i int, port uint16) string {
	return netip.AddrPortFrom(testnet.Dest(f, i), port).String()
}

// bothFamilies runs a subtest for each IP version.
func bothFamilies(t *testing.T, fn func(t *testing.T, f testnet.Family)) {
	t.Helper()
	for _, f := range testnet.Families() {
		t.Run(f.String(), func(t *testing.T) { fn(t, f) })
	}
}

// dialTCP connects from the host; the connection has a deadline that bounds
// the test, and is closed with it.
func dialTCP(t *testing.T, h *testnet.Host, address string) *net.TCPConn {
	t.Helper()
	c, err := h.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		t.Fatalf("connect %s: %v", address, err)
	}
	bound(t, c)
	return c.(*net.TCPConn)
}

// dialUDP opens a connected UDP socket in the same way.
func dialUDP(t *testing.T, h *testnet.Host, address string) *net.UDPConn {
	t.Helper()
	c, err := h.DialTimeout("udp", address, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	bound(t, c)
	return c.(*net.UDPConn)
}

func bound(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
}

// exchange sends payload and checks that the same comes back.
func exchange(t *testing.T, c net.Conn, payload string) {
	t.Helper()
	if err := tryExchange(c, payload); err != nil {
		t.Fatal(err)
	}
}

func tryExchange(c net.Conn, payload string) error {
	if _, err := io.WriteString(c, payload); err != nil {
		return err
	}
	buf := make([]byte, len(payload))
	if _, err := io.ReadFull(c, buf); err != nil {
		return err
	}
	if !bytes.Equal(buf, []byte(payload)) {
		return fmt.Errorf("echo of %q came back as %q", payload, buf)
	}
	return nil
}

// result is how a run of the program ended.
type result struct {
	status         int
	stdout, stderr string
}

// run runs the command to its end.
func run(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// oneLine checks that standard error is one line that holds every word.
func (r result) oneLine(t *testing.T, status int, words ...string) {
	t.Helper()
	if r.status != status {
		t.Errorf("exit status %d, want %d", r.status, status)
	}
	if strings.Count(r.stderr, "\n") != 1 || !strings.HasSuffix(r.stderr, "\n") {
		t.Errorf("standard error is not one line:\n%s", r.stderr)
	}
	for _, w := range words {
		if !strings.Contains(r.stderr, w) {
			t.Errorf("standard error lacks %q:\n%s", w, r.stderr)
		}
	}
}
