//go:build linux

package netcfg_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"netstackd/internal/netcfg"
	"netstackd/internal/testnet"
)

const (
	daemonEnv = "NETCFG_TEST_DAEMON"
	strictEnv = "NETCFG_TEST_STRICT" // for the daemon: on or keep
)

// TestHelperDaemon is no test: it is the process that TestIntegrationKill kills.
func TestHelperDaemon(t *testing.T) {
	if os.Getenv(daemonEnv) == "" {
		t.Skip("only run by TestIntegrationKill")
	}
	openTUN(t, tunName)
	cfg := testConfig()
	cfg.Routes = netcfg.DefaultRoutes()
	cfg.Excludes = prefixes("192.0.2.0/24")
	cfg.ExcludeUIDs = []netcfg.UIDRange{{5, 9}}
	cfg.Strict = map[string]netcfg.Strict{"on": netcfg.StrictOn, "keep": netcfg.StrictKeep}[os.Getenv(strictEnv)]
	fmt.Println("opening")
	h, err := netcfg.Open(context.Background(), tunName, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Capture(context.Background()); err != nil {
		t.Fatal(err)
	}
	fmt.Println("ready")
	bufio.NewReader(os.Stdin).ReadString('\n')
	fmt.Println("closing")
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
}

type daemon struct {
	cmd *exec.Cmd
	in  *os.File
	out *bufio.Scanner
}

func startDaemon(t *testing.T) *daemon {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestHelperDaemon$", "-test.v")
	cmd.Env = append(os.Environ(), daemonEnv+"=1")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin = r
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.Close()
	return &daemon{cmd: cmd, in: w, out: bufio.NewScanner(out)}
}

func (d *daemon) wait(t *testing.T, word string) {
	t.Helper()
	var lines []string
	for d.out.Scan() {
		lines = append(lines, d.out.Text())
		if d.out.Text() == word {
			return
		}
	}
	t.Fatalf("the daemon never said %q: %s", word, strings.Join(lines, "\n"))
}

func (d *daemon) kill() {
	d.cmd.Process.Kill()
	d.cmd.Wait()
	d.in.Close()
}

// Whenever the daemon is killed, the host's connectivity is back at once, and
// Cleanup leaves the host as it was.
func TestIntegrationKill(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	run(t, "ip rule add pref 9870 from 192.0.2.9 lookup main protocol 77") // the user's own, in our band's range
	run(t, "ip rule del pref 9870")
	run(t, "ip rule add pref 12000 from 192.0.2.9 lookup main")
	before := hostState(t)
	peer := listenPeer(t, 5000)
	connected := func(when string) {
		t.Helper()
		for _, dst := range far {
			send(t, dst, 5000, when+" "+dst, nil)
			peer.expect(t, when+" "+dst)
		}
	}
	connected("before")

	d := startDaemon(t)
	d.wait(t, "ready")
	d.kill()
	connected("killed when ready")
	if rules := run(t, "ip rule"); !strings.Contains(rules, "proto 198") {
		t.Fatalf("nothing left to clean up: %s", rules)
	}
	if n, err := netcfg.Cleanup(); n == 0 || err != nil {
		t.Fatalf("Cleanup: %d, %v", n, err)
	}
	sameState(t, before, hostState(t))

	for i := range 20 {
		d := startDaemon(t)
		phase := []string{"opening", "ready", "closing"}[i%3]
		if phase == "closing" {
			d.wait(t, "ready")
			d.in.WriteString("\n")
		}
		d.wait(t, phase)
		<-time.After(time.Duration(rand.IntN(4000)) * time.Microsecond) // anywhere in that phase
		d.kill()
		connected(fmt.Sprint("killed ", i, " ", phase))
		if i%2 == 0 { // else the next start cleans up
			if _, err := netcfg.Cleanup(); err != nil {
				t.Fatal(err)
			}
			sameState(t, before, hostState(t))
		}
	}
	if _, err := netcfg.Cleanup(); err != nil {
		t.Fatal(err)
	}
	sameState(t, before, hostState(t))
}
