//go:build linux

package main_test

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"netstackd/internal/testnet"

	"golang.org/x/sys/unix"
)

// hostState is everything that netstackd may change on a host.
func hostState(t *testing.T, h *testnet.Host) string {
	t.Helper()
	var b strings.Builder
	for _, cmd := range []string{
		"ip -o link", "ip -o addr", "ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all",
		"nft list ruleset", "sysctl -a -r ^net[.]ipv[46][.](conf|ip_forward|ping)", "cat /etc/resolv.conf",
	} {
		args := strings.Fields(cmd)
		// Without standard error: ip(8) complains there of a namespace that another
		// test is making at the same time.
		out, err := h.Command(t.Context(), args[0], args[1:]...).Output()
		if err != nil {
			t.Fatalf("%s: %v", cmd, err)
		}
		b.WriteString("$ " + cmd + "\n" + string(out))
	}
	return b.String()
}

func wantSameState(t *testing.T, before, after string) {
	t.Helper()
	if before == after {
		return
	}
	old := map[string]int{} // IPv4 and IPv6 have equal lines
	for line := range strings.Lines(before) {
		old[line]++
	}
	for line := range strings.Lines(after) {
		if old[line]--; old[line] < 0 {
			t.Errorf("new on the host: %s", line)
		}
	}
	for line, n := range old {
		if n > 0 {
			t.Errorf("gone from the host: %s", line)
		}
	}
}

// SIGTERM undoes what was done to the host and exits with 0.
func TestIntegrationUndo(t *testing.T) {
	testnet.RequireTool(t, "nft", "sysctl")
	n := testnet.New(t)
	for _, args := range [][]string{nil, routes(), {"--route", "default"}, {"--route", "default", "--no-ipv6"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			before := hostState(t, n.A)
			d := n.A.Start(t, program.Path(t), args...)
			if !n.A.HasDevice(t, tun) {
				t.Errorf("ready without %s", tun)
			}
			d.Stop()
			wantSameState(t, before, hostState(t, n.A))
		})
	}
}

// kill -9 leaves no interface, address or route, and connectivity is back at
// once without any command.
func TestIntegrationKill(t *testing.T) {
	n := testnet.New(t)
	port := n.B.ServeTCP(t, ":0", testnet.Echo)
	addresses := func() string {
		return n.A.Run(t, "ip", "-o", "addr") + n.A.Run(t, "ip", "route") + n.A.Run(t, "ip", "-6", "route")
	}
	before := addresses()
	for i := range 3 {
		d := n.A.Start(t, program.Path(t), routes()...)
		bothFamilies(t, func(t *testing.T, f testnet.Family) {
			n.A.Through(t, tun, 5, 5, func() { exchange(t, dialTCP(t, n.A, dest(f, i, port)), "through the TUN") })
		})
		d.Signal(syscall.SIGKILL)
		d.Wait(5 * time.Second)
		bothFamilies(t, func(t *testing.T, f testnet.Family) {
			exchange(t, dialTCP(t, n.A, dest(f, i, port)), "without it")
		})
		if after := addresses(); after != before {
			t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
		}
	}
}

// Flows may finish after SIGTERM, for --drain; then they are cut.
func TestIntegrationDrain(t *testing.T) {
	n := testnet.New(t)
	port := n.B.ServeTCP(t, ":0", testnet.Echo)
	for _, proxy := range []string{"127.0.0.1:1080", "198.18.0.2:1080"} {
		t.Run("finished/"+proxy, func(t *testing.T) {
			d := n.A.Start(t, program.Path(t), "--drain", "20s")
			c := dialSOCKS(t, n.A, proxy, dest(testnet.IPv4, 1, port))
			d.Signal(syscall.SIGTERM)
			testnet.Eventually(t, 5*time.Second, "nothing new is accepted", func() bool {
				c, err := n.A.DialTimeout("tcp", proxy, 200*time.Millisecond)
				if err == nil {
					c.Close()
				}
				return err != nil
			})
			exchange(t, c, "still carried")
			_ = c.CloseWrite()
			if _, err := io.ReadAll(c); err != nil {
				t.Errorf("the end of a drained flow: %v", err)
			}
			c.Close()
			if status := d.Wait(5 * time.Second); status != 0 {
				t.Errorf("exit status %d", status)
			}
		})
	}
	t.Run("cut", func(t *testing.T) {
		d := n.A.Start(t, program.Path(t), "--drain", "1s")
		c := dialSOCKS(t, n.A, "127.0.0.1:1080", dest(testnet.IPv4, 1, port))
		began := time.Now()
		d.Stop()
		if took := time.Since(began); took < time.Second || took > 5*time.Second {
			t.Errorf("ended after %v, want little more than 1s", took)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("the flow outlived the daemon")
		}
	})
}

// Nothing new is captured after SIGTERM, also while a client's association has time
// to finish.
func TestIntegrationDrainReleases(t *testing.T) {
	n, d := startRouted(t, "--drain", "4s")
	if r, _, _ := socks5(t, n.A, "127.0.0.1:1080", socksAssociate, "0.0.0.0:0"); r != socksOK {
		t.Fatalf("reply %d", r)
	}
	began := time.Now()
	d.Signal(syscall.SIGTERM)
	testnet.Eventually(t, 2*time.Second, "nothing is captured any more", func() bool {
		return !strings.Contains(n.A.Run(t, "ip", "route", "get", testnet.Dest(testnet.IPv4, 1).String()), tun)
	})
	if status := d.Wait(10 * time.Second); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if took := time.Since(began); took < 4*time.Second {
		t.Errorf("ended after %v: the association had no time to finish", took)
	}
}

// The TUN may go under the running daemon; it says so and exits with 1.
func TestIntegrationTUNDeleted(t *testing.T) {
	n, d := startRouted(t)
	n.A.Run(t, "ip", "link", "del", tun)
	if status := d.Wait(10 * time.Second); status != 1 {
		t.Errorf("exit status %d, want 1", status)
	}
	if last := lastLine(d.Stderr()); !strings.HasPrefix(last, "netstackd: ") || !strings.Contains(last, tun) {
		t.Errorf("the last line does not say that %s has gone: %s", tun, last)
	}
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// What can be wrong with the host: one line that names the flag or file, exit
// status 1, and nothing left half-made.
func TestIntegrationTrouble(t *testing.T) {
	testnet.RequireTool(t, "setpriv", "nft", "sysctl")
	n := testnet.New(t)
	bin := program.Path(t)
	for _, tt := range []struct {
		name  string
		setup []string // a command line on A, and the one that undoes it
		undo  []string
		args  []string
		words []string
	}{
		{"name taken", strings.Fields("ip link add " + tun + " type veth peer name taken1"), strings.Fields("ip link del " + tun), []string{bin}, []string{"--tun", tun}},
		{"address in use", strings.Fields("ip addr add 198.18.0.1/30 dev " + testnet.Device), strings.Fields("ip addr del 198.18.0.1/30 dev " + testnet.Device), []string{bin}, []string{"--address", "198.18.0.1"}},
		{"no root", nil, nil, strings.Fields("setpriv --reuid 65534 --clear-groups --inh-caps=-all " + bin), []string{"root"}},
		{"port in use", nil, nil, []string{bin, "--socks", "127.0.0.1:1081"}, []string{"--socks", "1081"}},
		{"not a TUN", nil, nil, []string{bin, "--tun-fd", "0"}, []string{"--tun-fd"}},
		{"fd not open", nil, nil, []string{bin, "--tun-fd", "77"}, []string{"--tun-fd", "77"}},
		{"no such interface", nil, nil, []string{bin, "--interface", "nope0"}, []string{"--interface", "nope0"}},
		{"no such file", nil, nil, []string{bin, "--auth-file", "/nonexistent/users"}, []string{"/nonexistent/users"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.setup != nil {
				n.A.Run(t, tt.setup[0], tt.setup[1:]...)
				defer n.A.Run(t, tt.undo[0], tt.undo[1:]...)
			}
			if tt.name == "port in use" {
				n.A.Listen(t, "127.0.0.1:1081")
			}
			before := hostState(t, n.A)
			cmd := n.A.Command(t.Context(), tt.args[0], tt.args[1:]...)
			cmd.Stdin = bytes.NewReader(nil)
			run(t, cmd).oneLine(t, 1, tt.words...)
			wantSameState(t, before, hostState(t, n.A))
		})
	}
}

// --tun-fd adopts a TUN that another program opened, with and without offloads.
func TestIntegrationTUNFd(t *testing.T) {
	testnet.RequireTool(t, "curl")
	for _, flags := range []uint16{0, unix.IFF_VNET_HDR} {
		t.Run(fmt.Sprintf("vnet_hdr=%v", flags != 0), func(t *testing.T) {
			n := testnet.New(t)
			fd := openTUN(t, n.A, "adopted0", flags)
			cmd := n.A.Command(t.Context(), program.Path(t), append(routes(), "--tun-fd", "3", "--drain", "0s")...)
			cmd.ExtraFiles = []*os.File{fd}
			d := testnet.StartCommand(t, cmd)
			port := n.B.ServeTCP(t, ":0", testnet.Echo)
			bothFamilies(t, func(t *testing.T, f testnet.Family) {
				udp := n.B.ServeUDP(t, wildcard(f), testnet.EchoUDP)
				n.A.Through(t, "adopted0", 200_000, 200_000, func() {
					exchange(t, dialTCP(t, n.A, dest(f, 1, port)), strings.Repeat("t", 200_000))
					exchange(t, dialUDP(t, n.A, dest(f, 1, udp)), strings.Repeat("u", 20_000))
					exchange(t, dialSOCKS(t, n.A, netip.AddrPortFrom(stackAddr(f), 1080).String(), dest(f, 1, port)), "socks")
				})
			})
			d.Stop()
		})
	}
}

// openTUN makes a TUN on the host, as a privileged parent would.
func openTUN(t *testing.T, h *testnet.Host, name string, flags uint16) *os.File {
	t.Helper()
	var f *os.File
	err := h.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f = os.NewFile(uintptr(fd), "/dev/net/tun")
		req, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | flags)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// --queues opens that many.
func TestIntegrationQueues(t *testing.T) {
	for _, queues := range []int{1, 4} {
		t.Run(fmt.Sprint(queues), func(t *testing.T) {
			n, d := startRouted(t, "--queues", fmt.Sprint(queues))
			dirs := n.A.Run(t, "ls", "/sys/class/net/"+tun+"/queues")
			if got := strings.Count(dirs, "tx-"); got != queues {
				t.Errorf("%d queues, want %d", got, queues)
			}
			port := n.B.ServeTCP(t, ":0", testnet.Echo)
			n.A.Through(t, tun, 32*10_000, 32*10_000, func() {
				for i := range 32 {
					exchange(t, dialTCP(t, n.A, dest(testnet.IPv4, i, port)), strings.Repeat("q", 10_000))
				}
			})
			d.Stop()
		})
	}
}

// SIGHUP reads the --auth-file again.
func TestIntegrationReload(t *testing.T) {
	testnet.RequireTool(t, "curl")
	n := testnet.New(t)
	users := t.TempDir() + "/users"
	write := func(line string) {
		if err := os.WriteFile(users, []byte(line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("ann:one")
	d := n.A.Start(t, program.Path(t), "--auth-file", users)
	port := n.B.ServeTCP(t, ":0", testnet.Greet("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"))
	fetch := func(user string) bool {
		_, err := n.A.Output("curl", "-sS", "--max-time", "5", "--proxy-user", user, "--socks5", "127.0.0.1:1080", "http://"+dest(testnet.IPv4, 1, port)+"/")
		return err == nil
	}
	if !fetch("ann:one") || fetch("bob:two") {
		t.Error("the file's user is not the one let in")
	}
	write("bob:two")
	d.Signal(syscall.SIGHUP)
	testnet.Eventually(t, 5*time.Second, "the new user is let in", func() bool { return fetch("bob:two") })
	if fetch("ann:one") {
		t.Error("the old user is still let in")
	}
	testnet.Eventually(t, 5*time.Second, "SIGHUP says what it changed", func() bool {
		return strings.Contains(d.Stderr(), "added=1 changed=0 removed=1")
	})
	d.Signal(syscall.SIGHUP)
	testnet.Eventually(t, 5*time.Second, "SIGHUP says that it changed nothing", func() bool {
		return strings.Contains(d.Stderr(), "no user has changed")
	})
	d.Stop()
	d = n.A.Start(t, program.Path(t))
	d.Signal(syscall.SIGHUP)
	testnet.Eventually(t, 5*time.Second, "SIGHUP says that it has nothing to do", func() bool {
		return strings.Contains(d.Stderr(), "nothing to read again")
	})
	d.Stop()
}
